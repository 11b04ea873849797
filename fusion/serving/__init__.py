"""A trained stack in one verified folder (``bundle``), and its answers for new clips (``clips``, then ``live``)."""
