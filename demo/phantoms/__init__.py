"""Phantom patients drawn from explicit factors, alone or in the layouts of real data sets."""
