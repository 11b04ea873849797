"""Public corpora and common layouts as a row per clip; ``extract/corpora/rows.py`` makes the manifest of them."""
