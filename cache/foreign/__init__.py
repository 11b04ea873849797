"""What others read and write: ``exports.py`` gives features to other programs, ``pickles.py`` takes arrays, numbers and
texts out of a pickle and nothing else, ``layouts.py`` says which of them belong to which clip."""
