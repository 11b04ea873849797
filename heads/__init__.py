"""Heads: small trainable models over cached features, texts and metadata.

Doors: ``heads/train.py`` (the script), :func:`heads.saved.load_head` and :func:`heads.saved.predict`.
"""
