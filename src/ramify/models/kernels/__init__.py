"""Kernels: the same numbers as the plain torch code beside them, sooner. Plain arrays in and out."""
