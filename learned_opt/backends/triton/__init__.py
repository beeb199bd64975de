"""Steps on a GPU by Triton: a few launches for all tensors. To import it does not import Triton.

`step_in_triton.py` says which tensors fit, and `table.py` tells a kernel where they lie. A rule has
a file with its step, one that launches its kernels, and one in `kernels/`.
"""
