"""Changed versions of clips: what a view of a clip is, drawn by what the clip is."""
