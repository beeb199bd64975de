"""Faster code for the steps of some rules; the rules themselves stay the reference.

`fused_step.py` is the contract, and `registry.py` says which rule has what. `c/` holds C sources,
which setup.py compiles where there is a compiler, and `c_steps/` calls them. `blocks/` and
`orthogonal_momentum/` step with PyTorch operations in place, `triton/` steps on a GPU.
"""
