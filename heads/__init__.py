"""Heads: small trainable models over cached features, texts and metadata.

Doors: ``heads/train.py`` (the script), :func:`heads.fitting.saved.load_head` and :func:`heads.fitting.saved.predict`.
"""
