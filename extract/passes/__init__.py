"""Passes of encoders over a manifest: only what is not stored yet, killed and resumed to the same bytes.

Start at ``extraction.py``; ``engine.py`` plans and stores, ``blocks.py`` computes, ``means.py`` chooses where: in this
process, on several devices, on a Ray cluster. ``live.py`` encodes new clips as a pass would.
"""
