"""Trained heads as ONNX graphs. Start at ``head.py``; ``graph.py`` is how graphs are written."""
