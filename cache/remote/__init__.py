"""Copies of stores behind URLs: ``copies`` brings what differs there or here, ``objects`` speaks to object storage."""
