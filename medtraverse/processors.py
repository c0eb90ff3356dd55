"""How many processors this process may use."""

import os


def processors() -> int:
    """Return their number, at least 1; what a container or `taskset` keeps back does not count."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
