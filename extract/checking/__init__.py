"""Every clip looked at once, before anything expensive runs. Start at ``looking.py``.

``measures.py`` is what a child process does with a file, ``kinds.py`` what of it is worth a word: the one place of all
thresholds; ``findings.py`` makes the table, ``page.py`` shows the worst.
"""
