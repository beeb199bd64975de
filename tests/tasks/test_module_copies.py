"""Modules that compute again in the backward pass, write what they are given, or differentiate."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from learned_opt import create_rule
from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.evaluation.curves import train_curves
from meta_train.inner.loop import InnerLoop
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.inner.state import stack, start
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.distributed import DistributedContext
from meta_train.runtime.seeding import generator
from meta_train.tasks import ModuleTask, Sine

CPU = torch.device("cpu")
mse = nn.functional.mse_loss


def data(width=4):
    torch.manual_seed(0)
    return torch.randn(64, width), torch.randn(64, 1)


class Net(nn.Module):
    def __init__(self, save_memory):
        super().__init__()
        self.save_memory = save_memory
        self.a, self.block = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.c = nn.Linear(8, 1)

    def forward(self, x):
        h = self.a(x)
        if self.save_memory:
            return self.c(checkpoint(self.block, h, use_reentrant=False))
        return self.c(self.block(h))


def gradients_of(task, vectorize):
    problem = task.sample(torch.Generator().manual_seed(0), CPU)
    loop = InnerLoop(create_rule("sgd"), problem.loss, vectorize)
    batch = problem.draw(torch.Generator().manual_seed(1))
    batch = stack([batch]) if vectorize else batch
    state = start(loop.rule, [problem], vectorize=vectorize)
    return loop.gradients(state, batch)[1]


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("save_memory", [False, True])
def test_activation_checkpointing_has_the_gradient_of_the_given_weights(save_memory, vectorize):
    task = ModuleTask(lambda: Net(save_memory), mse, data(), 16)
    sizes = {key: value.norm().item() for key, value in gradients_of(task, vectorize).items()}
    assert sizes == pytest.approx(
        {
            "a.weight": 0.4971,
            "a.bias": 0.1445,
            "block.0.weight": 0.5955,
            "block.0.bias": 0.2402,
            "c.weight": 0.4079,
            "c.bias": 0.3955,
        },
        abs=1e-4,
    )


@pytest.mark.parametrize("estimator", ["full", "implicit"])
def test_activation_checkpointing_has_the_same_meta_gradient(estimator):
    found = []
    for save_memory in (False, True):
        task = ModuleTask(functools.partial(Net, save_memory), mse, data(), 16)
        torch.manual_seed(0)
        initialization = dict(Net(save_memory).named_parameters())
        parameters = MetaParameters(create_rule("sgd"), initialization)
        plan = RunPlan(Horizons([[2]]))
        runs = Runs(parameters, task, plan, indices=range(2), total=2, seed=0, device=CPU)
        estimate = create_estimator(estimator).estimate(
            parameters,
            LoopSettings(lr=0.1, second_order=True),
            runs,
            MetaObjective(OBJECTIVES["last"]),
            0,
            DistributedContext(),
        )
        found.append(estimate.gradients)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("memory", ["plain", "1GiB"])
def test_activation_checkpointing_is_trained_on(memory):
    settings = TrainSettings(
        outer_steps=1,
        runs=2,
        horizons=(3,),
        truncation_length=3,
        estimator="full" if memory != "plain" else "truncated",
        memory=memory,
    )
    rule = create_rule("lstm", hidden_sizes=(3,))
    trainer = MetaTrainer(rule, ModuleTask(lambda: Net(True), mse, data(), 16), settings)
    trainer.train(progress=False)
    assert trainer.meta_optimizer.skipped == 0


def test_activation_checkpointing_in_an_episodes_network():
    class Saving(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.body, self.head = network.body, network.head

        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=False))

    class SavingSine(Sine):
        def build(self):
            return Saving(super().build())

    plain, saving = (gradients_of(cls(shots=5), False) for cls in (Sine, SavingSine))
    torch.testing.assert_close(plain, saving)


class InPlace(nn.Module):
    """Standardises its input in place; may look at a number, which vmap refuses."""

    def __init__(self, look=False):
        super().__init__()
        self.look, self.c = look, nn.Linear(2, 1)

    def forward(self, x):
        x.sub_(0.5).mul_(2.0)
        return self.c(x) * (2.0 if self.look and x.mean().item() > -9 else 1.0)


@pytest.mark.parametrize("look", [False, True])
def test_a_batch_that_the_module_writes_stays_as_it_is(look):
    inputs, targets = torch.rand(64, 2), torch.rand(64, 1)
    before = inputs.clone(), targets.clone()

    def loss(output, target):
        target -= 1.0
        return mse(output, target)

    task = ModuleTask(lambda: InPlace(look), loss, (inputs, targets), 8)
    problems = [task.sample(generator(seed), CPU) for seed in range(2)]
    batches = [problem.full() for problem in problems]
    one, many = (InnerLoop(create_rule("sgd"), task.loss, v) for v in (False, True))
    expected = [
        mse(
            nn.functional.linear(
                2 * before[0] - 1, p.parameters["c.weight"], p.parameters["c.bias"]
            )
            * (2.0 if look else 1.0),
            before[1] - 1,
        )
        for p in problems
    ]
    for _ in range(2):
        for problem, batch, value in zip(problems, batches, expected, strict=True):
            found = one.evaluate(start(one.rule, [problem], vectorize=False), batch)
            torch.testing.assert_close(found, value)
        found = many.evaluate(start(many.rule, problems, vectorize=True), stack(batches))
        torch.testing.assert_close(found, torch.stack(expected))
    train_curves(create_rule("sgd"), task, seeds=[0], steps=3, device=CPU)
    assert torch.equal(inputs, before[0]) and torch.equal(targets, before[1])


class Writer(nn.Module):
    """Writes its weights, an attribute, a container and its own generator's state."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3, max_norm=0.5)
        self.head = nn.Linear(3, 1)
        self.mean, self.calls, self.seen = torch.zeros(()), 0, {"all": []}
        self.source = torch.Generator().manual_seed(0)

    def forward(self, x):
        self.calls += 1
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.norm())
        y = self.head(self.embedding(x)) + torch.rand((), generator=self.source)
        self.mean.add_(y.detach().mean())
        self.seen["all"].append(y)
        return y * self.calls + self.mean


def test_what_a_module_writes_elsewhere_lasts_for_one_pass():
    task = ModuleTask(Writer, mse, (torch.arange(5).repeat(4), torch.randn(20, 1)), 8)
    problem = task.sample(generator(0), CPU)
    before = {key: value.clone() for key, value in problem.parameters.items()}
    assert before["embedding.weight"].norm(dim=1).max() > 0.5
    values = [problem.loss(problem.parameters, {}, problem.full())[0] for _ in range(3)]
    assert values[0] == values[1] == values[2]
    assert all(torch.equal(value, problem.parameters[key]) for key, value in before.items())
    assert task._skeleton.calls == 0 and task._skeleton.mean == 0
    assert task._skeleton.seen == {"all": []}
    assert torch.equal(
        task._skeleton.source.get_state(), torch.Generator().manual_seed(0).get_state()
    )


def test_attributes_that_refer_to_the_module_read_the_given_weights():
    class Referring(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)
            self.closure = lambda x: self.layer(x)
            self.partial = functools.partial(Referring.run, self)
            self.method = self.layer.forward
            self.parts = {"layer": [self.layer]}

        def run(self, x):
            return self.layer(x)

        def forward(self, x):
            found = [self.closure(x), self.partial(x), self.method(x), self.parts["layer"][0](x)]
            assert all(torch.equal(found[0], other) for other in found)
            return sum(found)

    inputs, targets = data(3)
    task = ModuleTask(Referring, mse, (inputs, targets), 8)
    zeros = {"layer.weight": torch.zeros(1, 3), "layer.bias": torch.ones(1)}
    loss, _ = task.loss(zeros, {}, (inputs, targets))
    torch.testing.assert_close(loss, (4 - targets).square().mean())


def test_a_module_whose_weights_a_copy_cannot_replace_is_refused():
    class Helper:
        def __init__(self, layer):
            self.layer = layer

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)
            self.helper = Helper(self.layer)

        def forward(self, x):
            return self.helper.layer(x)

    with pytest.raises(ValueError, match=r"Hidden reads layer\.weight through an object"):
        ModuleTask(Hidden, mse, data(3), 8)


class Force(nn.Module):
    """Minus the gradient of the energy w |x|^2 / 2, which is -w x."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        x = x.detach().requires_grad_()
        energy = self.w * x.square().sum() / 2
        return -torch.autograd.grad(energy, x, create_graph=True)[0]


@pytest.mark.parametrize("vectorize", [False, True])
def test_a_module_that_differentiates_is_trained_and_evaluated(vectorize):
    inputs, _ = data(2)
    task = ModuleTask(Force, mse, (inputs, -inputs), 8)
    problems = [task.sample(generator(seed), CPU) for seed in range(2)][: 1 + vectorize]
    loop = InnerLoop(create_rule("sgd"), task.loss, vectorize, lr=0.1)
    state = start(loop.rule, problems, vectorize=vectorize)
    batch = stack([inputs[:8]] * 2) if vectorize else inputs[:8]
    # The loss is (1 - w)^2 mean x^2 with w = 0.5.
    square = inputs[:8].square().mean()
    torch.testing.assert_close(
        loop.evaluate(state, (batch, -batch)), (0.25 * square).expand(state.alive.shape)
    )
    after, _ = loop.step(state, (batch, -batch))
    expected = 0.5 + 0.1 * 2 * 0.5 * square
    torch.testing.assert_close(after.parameters["w"], expected.expand(state.alive.shape))
    curves = train_curves(create_rule("sgd"), task, seeds=[0], steps=3, device=CPU)
    assert curves.full_losses.isfinite().all()
