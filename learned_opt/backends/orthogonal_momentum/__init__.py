"""The step of orthogonal-momentum on the CPU, by PyTorch operations and matrix products in C."""
