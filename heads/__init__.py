"""Small trainable models over stored features, texts and metadata: seconds where the encoders took hours.

``data`` gathers units into batches, ``models`` are the kinds of heads, ``pretraining`` trains networks without labels,
``fitting`` trains heads in folds and writes what they say, ``explaining`` shows why; ``metrics`` is what numbers mean
here and in ``fusion``. The scripts: ``inputs.py``, ``pretrain.py``, ``train.py``, ``search.py``, ``explain.py``.
"""
