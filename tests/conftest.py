"""For all tests. Those of one folder have their own conftest beside them; only tests/nodes has ComfyUI on its path."""
import os

# The tests' arrays are small: more threads cost more than they bring, most of all beside a running server.
os.environ.setdefault("OMP_NUM_THREADS", "1")
