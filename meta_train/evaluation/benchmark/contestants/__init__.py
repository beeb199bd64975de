"""The optimizers of the benchmark: how each is built, its default setting, and those to tune over.

`registry.py` lists them. `peers.py` and `opt_list.py` have those that torch does not have.
"""
