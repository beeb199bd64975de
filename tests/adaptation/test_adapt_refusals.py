"""Errors of `adapt`: unsupported arguments, and results that are not finite."""

import pytest
import torch
from conftest import Heads, make_batch, make_model
from torch import nn

from learned_opt import create_rule
from learned_opt.adaptation import Initialization, adapt

mse = nn.functional.mse_loss


def test_says_what_is_wrong_with_the_outcome():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return (self.w**2).sum().sqrt()

    def output(out, _):
        return out

    with pytest.raises(RuntimeError, match="parameter 'w' is not finite after 1 steps"):
        adapt(Root(), (torch.zeros(1), None), loss=output, steps=1)
    support = (torch.full((8, 3), torch.nan), make_batch()[1])
    with pytest.raises(RuntimeError, match="nan at step 1 of adaptation: look at the support set"):
        adapt(make_model(), support, loss=mse)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "gated-lstm"}, "rule 'gated-lstm' has weights that must be trained"),
        ({"rule": torch.optim.SGD}, "rule must be an UpdateRule, a name or a path"),
        ({"steps": "3"}, "steps must be a whole number of at least 0, got '3'"),
        ({"lr": "0.1"}, "lr must be a finite number, got '0.1'"),
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"lr": torch.zeros(4)}, r"a tensor lr must have one element, got shape \(4,\)"),
        ({"loss": lambda out, y: 1.0}, "loss must return a 0-dim tensor, got float"),
        ({"loss": lambda out, y: out}, r"0-dim tensor, got shape \[8, 2\]"),
        ({"loss": lambda out, y: y.sum()}, "the loss does not depend on any parameter"),
        (
            {"loss": lambda out, y: y.sum(), "proximal": 1.0},
            "the loss does not depend on any parameter",
        ),
        ({"keep": ["2."]}, "keep names values that an initialisation leaves alone"),
    ],
)
def test_names_the_culprit(settings, message):
    with pytest.raises(ValueError, match=message):
        adapt(make_model(), make_batch(), **{"loss": mse, **settings})


def test_a_new_head_on_an_embedding_is_not_left_untrained():
    """An embedding takes no steps: with `keep` alone, a random head would be returned."""
    model, embedding = make_model(), Initialization.of(make_model(seed=2), steps=0)
    settings = {"initialization": embedding, "keep": ["2."], "loss": mse}
    with pytest.raises(ValueError, match="given in keep would stay untrained"):
        adapt(model, make_batch(), **settings)
    trained = adapt(model, make_batch(), **settings, steps=1)
    assert not torch.equal(trained[2].weight, model[2].weight)


def test_parameters_that_the_loss_does_not_read_cannot_be_adapted():
    model, (x, y) = Heads(), make_batch()
    for functional in (False, True):
        settings = {"only": ["right."], "loss": mse, "functional": functional}
        with pytest.raises(ValueError, match="the loss does not depend on any parameter"):
            adapt(model, ((x, True), y), **settings)
    with pytest.warns((DeprecationWarning, FutureWarning)):  # torch 2.14 changed the kind
        scripted = torch.jit.trace(make_model(), x)
    with pytest.raises(ValueError, match="does not support ScriptModules"):
        adapt(scripted, (x, y), loss=mse)


def test_supports_that_would_be_misread_are_refused():
    x, y = make_batch()
    with pytest.raises(ValueError, match="TensorDataset, which yields single examples"):
        adapt(make_model(), torch.utils.data.TensorDataset(x, y), loss=mse)
    with pytest.raises(ValueError, match="got a list of 3 parts"):
        adapt(make_model(), iter([[x, y, y]]), loss=mse)
    with pytest.raises(ValueError, match="the cross-entropy of one class is always 0"):
        adapt(nn.Linear(3, 1), (x, y[:, :1]))
    sparse = nn.Embedding(5, 2, sparse=True)
    with pytest.raises(ValueError, match="parameter 'weight' has a sparse gradient"):
        adapt(sparse, (torch.arange(5), torch.zeros(5, 2)), loss=mse)


def test_a_rule_elsewhere_is_refused_where_its_weights_are_to_be_learned():
    with torch.device("meta"):
        model, support = nn.Linear(3, 2), (torch.zeros(8, 3), torch.zeros(8, 2))
    rule = create_rule("gated-lstm")
    with pytest.raises(ValueError, match="the rule is on cpu and the module on meta"):
        adapt(model, support, rule=rule, loss=mse, functional=True, create_graph=True)


@pytest.mark.parametrize(
    ("head", "targets"),
    [
        (lambda: nn.Flatten(0), torch.linspace(-1, 1, 8)),
        (lambda: nn.Linear(1, 2), torch.linspace(-1, 1, 16).reshape(8, 2)),
        (lambda: nn.Linear(1, 2), torch.full((8, 2), 0.7)),
    ],
)
def test_regression_is_not_taken_for_classification(head, targets):
    model = nn.Sequential(nn.Linear(3, 1), head())
    with pytest.raises(ValueError, match="are neither classes .* give a loss"):
        adapt(model, (torch.zeros(8, 3), targets))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 1] * 4, "takes one tensor of scores and one of targets, got Tensor and list"),
        (torch.zeros(8, 1, dtype=torch.int64), r"\[8, 1\] of torch.int64, do not fit"),
        (torch.full((8, 1), 1.0), r"do not fit the module's output, \[8, 2\]"),
        (torch.zeros(7, dtype=torch.int64), r"classes would have shape \[8\]; or give a loss"),
    ],
)
def test_targets_that_are_no_classes_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        adapt(nn.Linear(3, 2), (torch.zeros(8, 3), targets))


def test_outputs_that_are_no_scores_are_named():
    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(ValueError, match="got tuple and Tensor: give a loss"):
        adapt(Two(3, 2), (torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"classes would have shape \[\]; or give a loss"):
        whole = torch.zeros(8, dtype=torch.int64)
        adapt(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), (torch.zeros(8, 3), whole))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_classes_may_be_whole_numbers_of_any_kind(dtype):
    model, x = nn.Linear(3, 2), torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    classes = x[:, 0].gt(0)
    assert torch.equal(
        adapt(model, (x, classes.to(dtype))).weight, adapt(model, (x, classes.long())).weight
    )


def test_probabilities_of_classes_are_targets():
    model, x = nn.Linear(3, 2), torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    classes = x[:, 0].gt(0).long()
    hard = adapt(model, (x, classes), lr=0.1)
    soft = adapt(model, (x, nn.functional.one_hot(classes, 2).float()), lr=0.1)
    torch.testing.assert_close(hard.weight, soft.weight)


def test_what_is_no_initialisation_is_named():
    model = make_model()
    with pytest.raises(ValueError, match="Initialization.of.module. makes one of a module"):
        adapt(model, make_batch(), loss=mse, initialization=model.state_dict())
    with pytest.raises(ValueError, match="rule must be an UpdateRule, got 'sgd': give"):
        Initialization.of(model, rule="sgd")


def test_a_lazy_module_is_refused_with_the_remedy():
    model = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"0\.weight is unknown: call the module on one input"):
        adapt(model, (torch.randn(4, 3), torch.tensor([0, 1, 0, 1])))
