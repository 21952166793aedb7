"""Contenders of ``quality.py``: a file for each recipe, with a function ``points``."""
