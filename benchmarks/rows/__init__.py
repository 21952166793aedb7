"""The rows of ``benchmarks/speed.py``, a file each."""
