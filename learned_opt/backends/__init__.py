"""Faster code for the steps of some rules; the rules themselves stay the truth.

`fused_step.py` is the contract, `registry.py` says which rule has what, `blocks/` has steps in plain
torch, `c/` is C that setup.py compiles where there is a compiler, and `../c_library.py` loads it.
"""
