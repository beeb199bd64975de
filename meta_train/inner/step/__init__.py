"""Parts of one inner step: the losses with their gradients, and the step of the rule."""
