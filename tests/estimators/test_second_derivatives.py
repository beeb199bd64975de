"""Second order: attention takes a kernel that has it; other operations are named."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from learned_opt import adapt, create_rule
from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks import ModuleTask

CPU = torch.device("cpu")


class Attention(nn.Module):
    def __init__(self, save_memory=False):
        super().__init__()
        self.save_memory = save_memory
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        if self.save_memory:
            return self.head(checkpoint(self.layer, x, use_reentrant=False).mean(1))
        return self.head(self.layer(x).mean(1))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(9, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.bag(x[..., 0].abs().clamp_max(8).long()).tanh())


def meta_gradient(make, estimator="full", vectorize="always", **loop):
    torch.manual_seed(0)
    inputs, classes = torch.randn(40, 5, 8), torch.randint(3, (40,))
    task = ModuleTask(make, nn.functional.cross_entropy, (inputs, classes), 8)
    torch.manual_seed(0)
    parameters = MetaParameters(create_rule("sgd"), dict(make().named_parameters()))
    plan = RunPlan(Horizons([[2]]), vectorize=vectorize)
    runs = Runs(parameters, task, plan, indices=range(2), total=2, seed=0, device=CPU)
    settings = LoopSettings(lr=0.1, **{"second_order": True, **loop})
    objective = MetaObjective(OBJECTIVES["last"])
    chosen = create_estimator(estimator)
    return chosen.estimate(parameters, settings, runs, objective, 0, DistributedContext()).gradients


# First-order steps of `implicit` keep the fused kernel, which vmap takes one run at a time.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("vectorize", ["always", "never"])
@pytest.mark.parametrize("estimator", ["full", "implicit"])
def test_attention_is_differentiated_twice(estimator, vectorize):
    with sdpa_kernel(SDPBackend.MATH):
        expected = meta_gradient(Attention, estimator, vectorize)
    torch.testing.assert_close(meta_gradient(Attention, estimator, vectorize), expected)
    saving = meta_gradient(lambda: Attention(True), estimator, vectorize)
    torch.testing.assert_close(saving, expected)


def test_attention_is_differentiated_twice_through_adapt():
    torch.manual_seed(0)
    net, x, y = Attention(), torch.randn(16, 5, 8), torch.randint(3, (16,))

    def outer_gradient():
        theta = adapt(net, (x[:8], y[:8]), steps=2, lr=0.1, functional=True, create_graph=True)
        outputs = torch.func.functional_call(net, theta, (x[8:],))
        loss = nn.functional.cross_entropy(outputs, y[8:])
        return torch.autograd.grad(loss, list(net.parameters()))

    with sdpa_kernel(SDPBackend.MATH):
        expected = outer_gradient()
    torch.testing.assert_close(outer_gradient(), expected)


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*deprecated")
@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_is_differentiated_twice(normed, dim):
    torch.manual_seed(0)
    net = nn.Sequential(normed(nn.Linear(4, 3), dim=dim), nn.Tanh(), nn.Linear(3, 2)).double()
    x, y = torch.randn(8, 4).double(), torch.randn(8, 2).double()
    names, values = zip(*net.named_parameters(), strict=True)

    def outer_loss(*values):
        start = dict(zip(names, values, strict=True))
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(start[name])
        theta = adapt(
            net,
            (x[:4], y[:4]),
            steps=2,
            lr=0.1,
            loss=nn.functional.mse_loss,
            functional=True,
            create_graph=True,
        )
        outputs = torch.func.functional_call(net, theta, (x[4:],))
        return nn.functional.mse_loss(outputs, y[4:])

    start = [value.detach().clone() for value in values]
    found = torch.autograd.grad(outer_loss(*start), values)
    for k, gradient in enumerate(found):
        for place in range(gradient.numel()):
            ends = []
            for sign in (1, -1):
                moved = [value.clone() for value in start]
                moved[k].view(-1)[place] += sign * 1e-5
                ends.append(outer_loss(*moved).item())
            slope = (ends[0] - ends[1]) / 2e-5
            assert gradient.reshape(-1)[place].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_operation_without_a_second_derivative_is_named():
    says = "^embedding_bag has no second derivative: "
    with pytest.raises(RuntimeError, match=f"{says}set second_order"):
        meta_gradient(Bag)
    with pytest.raises(RuntimeError, match=f"{says}take another estimator"):
        meta_gradient(Bag, "implicit")
    gradients = meta_gradient(Bag, second_order=False)
    assert all(gradient.isfinite().all() for gradient in gradients)
