"""Side-by-side benchmarks: ``python -m benchmarks.trajectory``, ``.exactness`` and ``.page`` (README.md)."""
