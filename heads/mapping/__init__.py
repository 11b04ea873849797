"""Features in two dimensions, and what they separate: the emotion, or who speaks. Start at ``drawing.py``."""
