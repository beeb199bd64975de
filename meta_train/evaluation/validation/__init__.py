"""Validation during meta-training: one number, which selects the weights to keep."""
