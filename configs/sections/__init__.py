"""Parts of a profile: what all of them share, and the data."""
