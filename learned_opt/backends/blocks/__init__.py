"""Steps by PyTorch operations in place, on blocks that stay in the cache: for any CPU.

`rows.py` is the memory of a block, `coordinate_step.py` the loop over blocks of coordinate-wise
rules, and `lstm_cell.py` their cell. `step_size_lstm.py` is a rule that steps whole tensors.
"""
