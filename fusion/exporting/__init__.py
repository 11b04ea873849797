"""A bundle as ONNX graphs: ``folder.py`` writes and checks them, ``standalone.py`` runs them with NumPy alone."""
