"""Classifiers on a learned embedding: by distance, or solved in closed form.

`base.py` and `pairs.py` are base classes. `episodes.py` lists the classifiers in `HEADS` and makes
tasks of them.
"""
