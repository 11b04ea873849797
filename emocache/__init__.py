"""The console command: ``commands.py`` says which script each of its words calls, ``__main__.py`` calls it."""
