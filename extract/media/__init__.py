"""Media files into sounds and frames, in child processes that a damaged file may take down, and where clips come from.

Start at ``decoding.py``: what is decoded, and by whom; ``reading.py`` does it, ``sources.py`` hashes and fetches files.
"""
