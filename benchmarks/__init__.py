"""Side-by-side benchmarks: ``python -m benchmarks.trajectory`` and ``python -m benchmarks.exactness`` (see README.md here)."""
