"""Arrays that somebody else computed, in files of every kind, by the name that each has there.

Start at ``opening.py``: which reader takes what. ``reader.py`` says what a reader gives and what an array must be;
``names.py`` finds the array of each clip. Nothing is unpickled, and no file opens another, but for Kaldi's lists.
"""
