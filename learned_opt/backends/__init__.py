"""Faster code for the steps of some rules; the rules themselves stay the truth.

`fused_step.py` is the contract, `registry.py` says which rule has what, `blocks/` steps in plain
torch, and `c/` is C that setup.py compiles where there is a compiler; `../c_library.py` loads it.
"""
