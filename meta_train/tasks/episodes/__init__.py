"""Few-shot tasks: each problem is an episode with a support set and a query set.

`base.py` and `images.py` are base classes, `sampler.py` draws episodes, and each data set has a
file. `networks.py` has the networks. `conv_network.py` computes conv4 for many episodes at once,
from `conv_block.py`, `convolution.py` and `batch_norm.py`.
"""
