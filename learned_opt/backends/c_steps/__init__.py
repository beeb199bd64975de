"""Steps in C: Python that hands tensors to the code in `../c/`.

`step_in_c.py` is what all of them share, and `coordinate_step.py` what those of coordinate-wise
rules share. The other files have the steps of one rule or of a few.
"""
