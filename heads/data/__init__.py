"""Units as what models read: features from stores by the batch, roles, metadata, folds, augmentation.

Start at ``batches.py``, which holds all of a head's units; ``folds.py`` says what one fold is fitted on, and gives.
"""
