"""Frozen networks: one clip in, an array (time, dim) out, the same whatever it is batched with.

Start at ``encoder.py``, which says what all have in common; ``audio``, ``video`` and ``text`` make one of a profile's
settings, by way of ``loading.py``, from what ``checkpoints`` reads in folders of weights. ``tail.py`` is what of a
network a head may train.
"""
