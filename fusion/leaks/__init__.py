"""The audit: does anything of what is predicted stand where it must not?

``overlap`` and ``copies`` compare splits, ``probes`` try what metadata gives away, ``permutation`` trains on dealt
labels; ``chance.py`` says what chance would give.
"""
