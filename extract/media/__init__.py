"""Media files into sounds and frames, in child processes that a damaged file may take down, and where clips come from.

Start at ``decoding.py``: by whom something is decoded; ``tasks.py`` says what, ``reading.py`` does it, ``damage.py``
measures what is lost, ``sources.py`` hashes and fetches files. ``containers/`` reads what files say of themselves.
"""
