"""Training a head's network without labels, before heads start from it; folds are respected.

``objectives.py`` is what is learned, ``clips.py`` what it is learned from, ``fitting.py`` does it; ``folder.py`` is
what is left, and what a head's training reads of it.
"""
