"""From a corpus in its own format, and its media, to features on the shelf: what is expensive, and done once.

``media`` reads files, ``encoders`` are frozen networks, ``corpora`` turn datasets into the manifest, and ``passes`` run
encoders over it. The scripts: ``manifest.py``, then ``run.py``. ``sample`` is the embedded corpus.
"""
