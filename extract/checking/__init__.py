"""Every clip looked at once, before anything expensive runs. Start at ``looking.py``.

``measures.py`` is what a child process does with a file, ``findings.py`` what of it is worth a word: the one place of
all thresholds; ``page.py`` shows the worst.
"""
