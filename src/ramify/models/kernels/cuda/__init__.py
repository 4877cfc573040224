"""Kernels in Triton: for CUDA, and on a CPU for Triton's interpreter. Imported only where there is Triton."""
