"""From what heads say of each unit to one calibrated answer, what it is worth, and its use on new clips.

``strategies`` fuse, ``report`` measures and shows, ``leaks`` is the audit, ``serving`` the bundle and its predictions,
``explaining`` shows why.
The scripts: ``stack.py``, ``audit.py``, ``bundle.py``, ``predict.py``, ``explain.py``.
"""
