"""Kernels in Triton, a file for each rule. To import one is to import Triton."""
