"""Inner training: pure, differentiable steps for one run or for many at once."""
