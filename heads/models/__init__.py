"""The kinds of heads. A network is made of ``parts``; ``network.py`` feeds, saves and loads it.

``sequence`` and ``cross_modal`` are the published networks, ``transformer`` what can stand in place of the first one's
recurrence; ``linear``, ``boosted`` and ``bag_of_words`` the plain ones, which read a row per unit (``pooled.py``).
"""
