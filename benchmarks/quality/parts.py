"""The default with one part changed: optimizers for the benchmark's `--optimizer`.

    python -m meta_train benchmark --optimizers orthogonal-momentum --seeds 2 --no-sensitivity
    --optimizer benchmarks.quality.parts:no_average benchmarks.quality.parts:told_the_steps

From the folder of the repository; both lines are one command.
"""

from torch import nn

from learned_opt import LearnedOptimizer, create_rule


class AtParameters(LearnedOptimizer):
    """Evaluated where training stands, not at the average."""

    def eval(self, model=None, batches=None):
        """Leave the parameters as they are."""

    def train(self, mode=True):
        """Leave the parameters as they are."""


def three_iterations(model: nn.Module, steps: int) -> LearnedOptimizer:
    """With 3 Newton-Schulz iterations in place of 4."""
    rule = create_rule("orthogonal-momentum", iterations=3)
    return LearnedOptimizer(model.parameters(), rule=rule)


def five_iterations(model: nn.Module, steps: int) -> LearnedOptimizer:
    """With 5 Newton-Schulz iterations in place of 4."""
    rule = create_rule("orthogonal-momentum", iterations=5)
    return LearnedOptimizer(model.parameters(), rule=rule)


def no_average(model: nn.Module, steps: int) -> LearnedOptimizer:
    """Evaluated at the parameters."""
    return AtParameters(model.parameters())


def told_the_steps(model: nn.Module, steps: int) -> LearnedOptimizer:
    """With a planned number of steps, and so without the average."""
    return LearnedOptimizer(model.parameters(), total_steps=steps)
