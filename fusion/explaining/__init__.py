"""Why the fusion answered as it did: what each head brought, and what is lost without an input of all heads.

``answer.py`` finds out, ``page.py`` shows it; heads by themselves are explained in ``heads/explaining``.
"""
