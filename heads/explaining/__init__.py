"""Why a head answered as it did: everything that it read is taken away, piece by piece, and it is asked again.

Start at ``explanation.py``; ``scene.py`` knows what can be taken away, ``page.py`` and ``chart.py`` show it.
"""
