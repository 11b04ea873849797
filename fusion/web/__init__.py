"""A bundle behind HTTP: the service and the page over it. Start at ``app.py``; ``running.py`` starts it."""
