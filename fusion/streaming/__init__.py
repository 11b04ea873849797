"""Emotion over time: what to read (``sources``), who waits (``waiting``), who speaks (``speech``), what is shown."""
