"""Estimators of the meta-gradient, one file each."""

from meta_train.estimators.truncated import Estimate, truncated_backprop

__all__ = ["Estimate", "truncated_backprop"]
