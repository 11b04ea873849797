"""Sounds and pictures as they pass by, cut into windows (``cutting``): of files, and of what is live (``incoming``)."""
