"""The isolation drill's parts: see `benchmarks/isolation.py`."""
