"""The one place where scores are computed, so that a head's numbers and the fusion's mean the same.

Start at ``scores.py``, whose ``evaluate`` everybody calls; ``confusions.py`` is what it counts, ``intervals.py`` how
sure that is, ``calibration.py`` how far confidence can be trusted. ``choosing.py`` is one number to choose by.
"""
