"""Predictions of heads and of other programs: read, checked, aligned; and what such tables lack."""
