"""Where the folds of a head are fitted: in this process, or as tasks of a Ray cluster. Start in ``engines.py``."""
