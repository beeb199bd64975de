"""The built-in families of tasks, one file each; `registry.py`, a folder up, lists their names.

`network_family.py` and `char_family.py` are base classes, `networks.py` and `sampling.py` serve
several families.
"""
