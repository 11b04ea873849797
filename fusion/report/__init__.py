"""What a fusion is worth: findings, significance, charts, and one page that shows them.

Start at ``findings.py`` for what is found and ``page.py`` for how it is shown; the page's parts are in ``templates``.
"""
