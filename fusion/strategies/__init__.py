"""Ways to fuse heads' predictions, each judged on folds that its fit has not seen.

Start at ``catalogue.py``, the list of them; ``predictions.py`` aligns the heads' tables, ``nested.py`` compares and
chooses.
"""
