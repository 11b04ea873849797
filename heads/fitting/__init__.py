"""Training heads in folds, with nothing of a held-out unit in it, and publishing what they say.

Start at ``cross_validation.py``; ``kinds.py`` is the only place that knows all kinds of heads, ``training.py`` fits the
networks, ``saved.py`` is a trained head on disk.
"""
