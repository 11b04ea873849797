"""What a media file says of itself, read byte by byte and without FFmpeg: its end, its length, its tags, its pages.

``completeness.py``: is it cut short; ``lengths.py``: how long it says it is; ``ogg.py`` and ``tags.py``: formats that
FFmpeg passes over in silence; ``foreign.py``: files that are no media at all.
"""
