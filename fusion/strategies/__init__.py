"""Ways to fuse heads' predictions, each judged on folds that its fit has not seen.

Start at ``catalogue.py``, the list of them; ``nested.py`` compares and chooses. ``fusion/tables/`` aligns the heads'
tables.
"""
