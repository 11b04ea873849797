"""Datasets in their own formats, each read into the one table that everything downstream reads.

``manifest.py`` is that table and its rules; every other file reads a corpus, or helps to.
"""
