"""Meta-train learned optimizers by differentiating through training."""
