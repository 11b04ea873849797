"""Pages that open anywhere: what all of them share, and the overview of a manifest. Start at ``overview.py``."""
