"""The peers: those written here are those that their authors describe."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from meta_train.evaluation.benchmark.contestants.contestant import HasModes, state_bytes
from meta_train.evaluation.benchmark.contestants.opt_list import OPT_LIST
from meta_train.evaluation.benchmark.contestants.peers import Muon, NesterovAdamW
from meta_train.evaluation.benchmark.contestants.registry import (
    CONTESTANTS,
    find_contestant,
    learned,
    missing_package,
)
from meta_train.evaluation.benchmark.contestants.schedules import warm_cosine
from meta_train.evaluation.benchmark.contestants.user_function import from_function
from meta_train.evaluation.benchmark.games import GAMES, play_once
from meta_train.evaluation.benchmark.tasks import TASKS
from meta_train.evaluation.benchmark.workload import Workload, cross_entropy


def trained(make, steps=5):
    """Parameters after some steps on the same random gradients."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(3, 8))]
    optimizer = make(parameters)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_muon_is_torchs_on_matrices():
    ours = trained(lambda p: Muon(p, [], 0.02, 3e-4))
    torchs = trained(lambda p: torch.optim.Muon(p, lr=0.02, momentum=0.95, weight_decay=0))
    start = trained(lambda p: torch.optim.SGD(p, lr=0.0))
    for one, other, before in zip(ours, torchs, start, strict=True):
        # Both multiply in bfloat16, in another order.
        assert float((one - other).norm()) < 0.03 * float((other - before).norm())


def test_muon_takes_a_kernel_as_a_matrix():
    torch.manual_seed(0)
    gradient = torch.randn(4, 2, 3, 3)
    kernel, matrix = nn.Parameter(torch.zeros(4, 2, 3, 3)), nn.Parameter(torch.zeros(4, 18))
    kernel.grad, matrix.grad = gradient, gradient.flatten(1)
    Muon([kernel, matrix], [], 0.02, 3e-4).step()
    assert torch.equal(kernel.flatten(1), matrix)
    singular = torch.linalg.svdvals(matrix.detach() / 0.02)
    assert 0.6 < float(singular.min()) and float(singular.max()) < 1.3


def test_the_rest_under_muon_is_adamws():
    ours = trained(lambda p: Muon([], p, 0.02, 3e-4))
    adamw = trained(lambda p: torch.optim.AdamW(p, lr=3e-4, betas=(0.9, 0.95), weight_decay=0))
    for one, other in zip(ours, adamw, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_without_nesterov_it_is_adamw():
    ours = trained(lambda p: NesterovAdamW(p, 1e-2, (0.8, 0.9), weight_decay=0.1, nesterov=False))
    torchs = trained(lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1))
    for one, other in zip(ours, torchs, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("eps_before", [False, True])
def test_two_steps_of_nadamw_by_hand(eps_before):
    parameter = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = NesterovAdamW(
        [parameter], 0.1, (0.5, 0.75), eps=0.01, weight_decay=0.2, eps_before=eps_before
    )
    m = v = 0.0
    p = 1.0
    for t, g in ((1, 2.0), (2, -1.0)):
        parameter.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        m, v = 0.5 * m + 0.5 * g, 0.75 * v + 0.25 * g * g
        n = (0.5 * m + 0.5 * g) / (1 - 0.5**t)
        root = math.sqrt(1 - 0.75**t)
        eps = 0.01 / root if eps_before else 0.01
        p = p - 0.1 * 0.2 * p - 0.1 * n / (math.sqrt(v) / root + eps)
        assert parameter.item() == pytest.approx(p, rel=1e-12)


def test_a_schedule_warms_up_stays_and_falls():
    factor = warm_cosine(100, warm_up=0.1, constant=0.5, last=0.2)
    assert factor(0) == pytest.approx(1 / 11)
    assert factor(9) == pytest.approx(10 / 11)
    assert factor(10) == factor(50) == 1
    assert factor(75) == pytest.approx(0.6)
    assert factor(100) == factor(1000) == pytest.approx(0.2)


def test_settings_are_those_that_the_documentation_names():
    assert {name: len(one.trials) for name, one in CONTESTANTS.items()} == {
        "adamw-cosine": 14, "muon": 14, "adamw": 14, "schedule-free": 14, "nadamw": 14,
        "prodigy": 14, "sgd": 14, "opt-list": 10,
    }  # fmt: skip
    defaults = {name: dict(one.default) for name, one in CONTESTANTS.items()}
    assert defaults["adamw-cosine"] == defaults["adamw"] == {"lr": 1e-3}
    assert defaults["muon"] == {"lr": 0.02, "adam_lr": 3e-4}
    assert defaults["schedule-free"] == {"lr": 2.5e-3}
    assert defaults["nadamw"] == {"lr": 1.9e-3}
    assert OPT_LIST[0][:4] == (1.195e-3, 0.9360, 0.9989, 5.876e-6)
    rates = [setting["lr"] for setting in CONTESTANTS["adamw"].trials]
    assert sorted(rates) == pytest.approx([1e-4 * 2**k for k in range(14)])
    assert rates[:2] == pytest.approx([1.28e-2, 3.2e-3])
    assert CONTESTANTS["muon"].scaled({"lr": 0.02, "adam_lr": 3e-4}, 3.0) == pytest.approx(
        {"lr": 0.06, "adam_lr": 9e-4}
    )


@pytest.mark.parametrize("name", [*CONTESTANTS, "orthogonal-momentum", "step-size-lstm"])
def test_every_optimizer_lowers_a_loss(name):
    contestant = find_contestant(name)
    if missing_package(contestant):
        pytest.skip(f"{missing_package(contestant)} is not installed")
    torch.manual_seed(0)
    workload = TASKS["diabetes"].make()
    optimizer, scheduler = contestant.build(workload, contestant.default, 40)
    assert isinstance(optimizer, HasModes) == (
        name in ("schedule-free", "orthogonal-momentum", "step-size-lstm")
    )
    if isinstance(optimizer, HasModes):
        optimizer.train()
    before = workload.loss(workload.model, workload.train).item()
    for _ in range(40):
        optimizer.zero_grad()
        workload.loss(workload.model, workload.train).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    assert workload.loss(workload.model, workload.train).item() < before
    assert state_bytes(optimizer) > 0


def test_the_default_is_built_without_options_and_scaled_when_asked():
    torch.manual_seed(0)
    workload = TASKS["diabetes"].make()
    own = learned()
    assert own.default == {"lr": 1.0} and not own.told_steps
    rates = [
        own.build(workload, {"lr": factor}, 10)[0].param_groups[0]["lr"] for factor in (1.0, 3.0)
    ]
    assert rates[1] == pytest.approx(3 * rates[0])
    assert learned("step-size-lstm").told_steps
    built = learned("step-size-lstm").build(workload, {"lr": 1.0}, 77)[0]
    assert built.param_groups[0]["total_steps"] == 77


def test_a_missing_package_is_named():
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'schedulefree' else find(name)\n"
        "from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS\n"
        "from meta_train.evaluation.benchmark.contestants.registry import missing_package\n"
        "print(missing_package(CONTESTANTS['schedule-free']), missing_package(CONTESTANTS['sgd']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["schedulefree", "None"], result.stderr


MINE = """
import torch


def plain(model, steps):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def scheduled(model, steps):
    optimizer = plain(model, steps)
    return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)


def halved(model, steps):
    optimizer = plain(model, steps)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 0.5**done)


def warmed(model, steps):
    optimizer, schedulers = plain(model, steps), torch.optim.lr_scheduler
    first = schedulers.LinearLR(optimizer, 0.5, 1.0, total_iters=2)
    last = schedulers.CosineAnnealingLR(optimizer, steps - 2)
    return optimizer, schedulers.SequentialLR(optimizer, [first, last], [2])


def one_cycle(model, steps):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)


def wrong(model, steps):
    return "sgd"


def three(model, steps):
    return plain(model, steps), None, None


def plateau(model, steps):
    optimizer = plain(model, steps)
    return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


def scheduler_of_another_kind(model, steps):
    return plain(model, steps), "cosine"


def demanding(model, steps):
    assert steps > 1000, "too few steps"


def for_a_copy(model, steps):
    return torch.optim.SGD([model.weight, torch.nn.Parameter(torch.ones(2))], lr=0.1)


def kernels(model, steps):
    return torch.optim.SGD([p for p in model[0].parameters() if p.dim() == 4], lr=0.1)


def mixed_up(model, steps):
    return plain(model, steps), scheduled(model, steps)[1]


def choosy(model, steps):
    raise ValueError("no such model")


nothing = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_optimizers.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_optimizers", None)


def moves(name, factor, steps=10):
    """How far a weight moves in each step at a gradient of 1."""
    workload = Workload(nn.Linear(1, 1), (), (), cross_entropy, cross_entropy)
    built = from_function(f"my_optimizers:{name}").build(workload, {"lr": factor}, steps)
    weight, found = workload.model.weight, []
    for _ in range(steps):
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        built[0].step()
        if built[1] is not None:
            built[1].step()
        found.append(before - weight.item())
    return found


def test_an_optimizer_of_the_users_own(mine):
    assert moves("plain", 1.0, 2) == pytest.approx([0.1, 0.1])
    assert moves("scheduled", 1.0)[:2] == pytest.approx([0.1, 0.09])
    assert moves("halved", 1.0, 3) == pytest.approx([0.1, 0.05, 0.025])
    assert moves("warmed", 1.0)[:3] == pytest.approx([0.05, 0.075, 0.1])


@pytest.mark.parametrize("name", ["plain", "scheduled", "halved", "warmed", "one_cycle"])
def test_every_step_of_the_users_own_is_multiplied(mine, name):
    usual, longer = moves(name, 1.0), moves(name, 3.0)
    assert longer == pytest.approx([3 * step for step in usual], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_optimizers", "unknown optimizer 'my_optimizers'"),
        ("my_optimizers:", "--optimizer takes module:function"),
        ("no_such_module:make", "cannot import 'no_such_module'"),
        ("my_optimizers:make", "has no function 'make'"),
        ("my_optimizers:nothing", "has no function 'nothing'"),
    ],
)
def test_a_function_that_does_not_exist_is_said_in_one_line(mine, path, message):
    with pytest.raises(ValueError, match=message) as error:
        find_contestant(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", "must return an optimizer.*it returned str"),
        ("three", "must return an optimizer.*it returned tuple"),
        ("scheduler_of_another_kind", "must return a torch scheduler.*str"),
        (
            "for_a_copy",
            "for_a_copy returned an optimizer of other parameters than the model's: 1 of 2",
        ),
        ("mixed_up", "mixed_up returned a scheduler of another optimizer"),
        ("plateau", "ReduceLROnPlateau, which needs a loss"),
        ("demanding", "demanding.* fails: AssertionError: too few steps"),
        ("choosy", "choosy.* fails: ValueError: no such model"),
    ],
)
def test_a_wrong_function_is_said_in_one_line(mine, name, message):
    with pytest.raises(ValueError, match=message) as error:
        moves(name, 1.0)
    assert "\n" not in str(error.value)


def test_a_function_may_fit_some_models_only(mine):
    kernel = nn.Conv2d(1, 1, 3)
    found = find_contestant("my_optimizers:kernels")
    built, _ = found.build(
        Workload(nn.Sequential(kernel), (), (), cross_entropy, cross_entropy), {"lr": 1.0}, 10
    )
    assert built.param_groups[0]["params"] == [kernel.weight]
    with pytest.raises(
        ValueError, match="kernels.* fails: TypeError: 'Linear' object is not subscriptable"
    ):
        moves("kernels", 1.0)


@pytest.mark.parametrize("name", [*CONTESTANTS, "orthogonal-momentum", "step-size-lstm"])
def test_every_optimizer_plays_every_game(name):
    contestant = find_contestant(name)
    if missing_package(contestant):
        pytest.skip(f"{missing_package(contestant)} is not installed")
    for game in GAMES.values():
        played = play_once(game, contestant, contestant.default, seed=0, steps=2)
        assert 0 <= played.figure <= 200
