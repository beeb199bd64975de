import math

import pytest
import torch
from few_shot_cases import MadeUp, made_up_images
from torch.func import vmap

from learned_opt import create_rule
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import stack, start
from meta_train.runtime.seeding import generator
from meta_train.tasks import create_task, list_tasks
from meta_train.tasks.episodes.omniglot import OmniglotClasses, OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine

CPU = torch.device("cpu")


def sample(task, seed=0):
    return task.sample(generator(seed), CPU)


def test_sine_points_lie_on_the_curve():
    task = Sine(shots=20, queries=30)
    for seed in range(5):
        amplitude, phase = task.draw_curve(generator(seed))
        problem = sample(task, seed)
        for (x, y), count in (
            (problem.draw(generator(1)), 20),
            (problem.draw_validation(generator(1)), 30),
        ):
            assert x.shape == y.shape == (count, 1)
            assert x.abs().max() <= 5
            torch.testing.assert_close(y, amplitude * torch.sin(x - phase))


def test_sine_curves_fill_their_ranges():
    curves = [Sine().draw_curve(generator(seed)) for seed in range(300)]
    amplitudes, phases = zip(*curves, strict=True)
    assert 0.1 <= min(amplitudes) < 0.3 and 4.8 < max(amplitudes) <= 5
    assert 0 <= min(phases) < 0.1 and math.pi - 0.1 < max(phases) <= math.pi


def test_sine_has_the_published_initialisation():
    parameters = sample(Sine()).parameters
    assert {k: list(v.shape) for k, v in parameters.items()} == {
        "body.0.weight": [40, 1],
        "body.0.bias": [40],
        "body.2.weight": [40, 40],
        "body.2.bias": [40],
        "head.weight": [1, 40],
        "head.bias": [1],
    }
    weights = parameters["body.2.weight"]
    assert weights.abs().max() <= 0.02 and 0.008 < weights.std() < 0.01
    assert not any(v.any() for k, v in parameters.items() if k.endswith("bias"))


@pytest.mark.parametrize(
    ("fresh", "expected"), [("nothing", set()), ("head", {"head."}), ("all", {"head.", "body."})]
)
@pytest.mark.parametrize("kind", ["sine", "images"])
def test_fresh_parameters_differ_between_episodes_and_others_are_shared(kind, fresh, expected):
    task = Sine(fresh=fresh) if kind == "sine" else MadeUp(fresh=fresh)
    first, second = sample(task, 0).parameters, sample(task, 1).parameters
    for name, value in first.items():
        weight = name.endswith("weight") and value.dim() > 1
        shared = value.data_ptr() == second[name].data_ptr()
        assert shared == (name[:5] not in expected)
        assert not weight or torch.equal(value, second[name]) == shared
    head = sample(MadeUp(fresh="head")).parameters["head.weight"]
    assert head.abs().max() <= 1 / math.sqrt(4)


@pytest.mark.parametrize("task", [Sine(adapted="head"), MadeUp(adapted="head", fresh="head")])
def test_only_the_head_is_adapted(task):
    first, second = sample(task, 0), sample(task, 1)
    assert all(name.startswith("head.") for name in first.parameters)
    assert tuple(first.fixed) == tuple(
        name for name in task.template() if not name.startswith("head.")
    )
    assert {*first.parameters, *first.fixed} == set(task.template())
    shared = isinstance(task, MadeUp)
    assert torch.equal(first.fixed["body.0.weight"], second.fixed["body.0.weight"]) == shared


def test_problems_of_a_task_run_together_and_learn():
    task = MadeUp(ways=3, shots=3, queries=2)
    problems = [sample(task, seed) for seed in range(4)]
    loop = InnerLoop(create_rule("sgd"), task.loss, vectorize=True, lr=0.3)
    inner = start(loop.rule, problems, vectorize=True)
    support = stack([problem.full() for problem in problems])
    first = loop.evaluate(inner, support)
    for _ in range(10):
        inner, _ = loop.step(inner, support)
    assert (loop.evaluate(inner, support) < 0.5 * first).all()


def test_one_by_one_gives_what_vmap_gives():
    for task in (MadeUp(batch_norm="support"), MadeUp(architecture="dense"), Sine()):
        problems = [sample(task, seed) for seed in range(3)]
        queries = [problem.draw_validation(generator(0)) for problem in problems]
        together = vmap(task.score)(
            stack([p.parameters for p in problems]),
            stack([p.buffers for p in problems]),
            stack(queries),
        )
        alone = [
            task.score(p.parameters, p.buffers, q) for p, q in zip(problems, queries, strict=True)
        ]
        torch.testing.assert_close(together, torch.stack(alone))


def test_batch_statistics_make_a_query_depend_on_the_others():
    for batch_norm, depends in (("batch", True), ("support", False)):
        task = MadeUp(batch_norm=batch_norm, queries=4)
        problem = sample(task)
        inputs, _ = problem.draw_validation(generator(0))
        _, buffers = task.loss(problem.parameters, problem.buffers, problem.full())
        with torch.no_grad():
            whole = task.predict(problem.parameters, buffers, inputs)
            part = task.predict(problem.parameters, buffers, inputs[:7])
        assert torch.allclose(whole[:7], part, atol=1e-5) != depends


def test_support_statistics_are_the_support_sets_own():
    task = MadeUp(batch_norm="support", ways=4, shots=3)
    problem = sample(task)
    inputs, targets = problem.full()
    loss, buffers = task.loss(problem.parameters, problem.buffers, (inputs, targets))
    assert not torch.equal(buffers["body.1.running_mean"], problem.buffers["body.1.running_mean"])
    assert not problem.buffers["body.1.running_mean"].any()  # the episode's own are not touched
    scores = task.predict(problem.parameters, buffers, inputs)
    torch.testing.assert_close(task.loss_of(scores, targets), loss, rtol=1e-3, atol=1e-4)


def test_inner_batches_are_rows_of_the_support_set():
    task = MadeUp(ways=4, shots=4, inner_batch=5)
    problem = sample(task)
    rows = {tuple(image.flatten().tolist()) for image in problem.full()[0]}
    source = generator(0)
    drawn = [problem.draw(source) for _ in range(3)]
    for inputs, targets in drawn:
        assert inputs.shape == (5, 1, 28, 28) and targets.shape == (5,)
        batch = {tuple(image.flatten().tolist()) for image in inputs}
        assert len(batch) == 5 and batch <= rows
    assert not torch.equal(drawn[0][0], drawn[1][0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": 1}, "ways must be at least 2, got 1"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"inner_batch": 6}, "inner_batch must be from 1 to the 5 support examples, got 6"),
        ({"adapted": "heads"}, "did you mean 'head'"),
        ({"fresh": "none"}, "unknown choice of fresh parameters"),
        ({"split": "tests"}, "did you mean 'test'"),
        ({"split_by": "letters"}, "unknown way to split"),
        ({"part": "al"}, "did you mean 'all'"),
        ({"architecture": "conv"}, "did you mean 'conv4'"),
        ({"batch_norm": "running"}, "unknown batch_norm"),
        ({"pool": "max"}, "unknown pool"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"rotation": True}, "did you mean 'rotations'"),
    ],
)
def test_omniglot_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        create_task("omniglot", **settings)


def test_sine_takes_lists_and_refuses_bad_bounds():
    assert create_task("sine", amplitude=[1, 2], hidden=[8]) == Sine(amplitude=(1, 2), hidden=(8,))
    with pytest.raises(ValueError, match=r"phase must be two ordered, finite bounds, got \(2, 1\)"):
        Sine(phase=(2, 1))


def test_tasks_that_need_files_are_not_listed_by_default():
    assert "sine" in list_tasks() and "omniglot" not in list_tasks()
    assert "sine" not in create_task("mixture").families


def test_splits_are_the_same_task_on_other_characters():
    task = OmniglotEpisodes(ways=7)
    assert task.validation() == OmniglotEpisodes(ways=7, split="validation")
    assert task.held_out() == {"same family": OmniglotEpisodes(ways=7, split="test")}


class MadeUpClasses(OmniglotClasses):
    def images(self):
        return made_up_images()


def test_classes_train_the_body_of_the_episodes_network():
    task = MadeUpClasses(hidden=4, batch_size=16)
    problem = sample(task)
    assert problem.parameters["head.weight"].shape == (12, 4)
    episodes = MadeUp().template()
    for name, value in problem.parameters.items():
        assert name.startswith("head.") or episodes[name].shape == value.shape
    inputs, targets = problem.draw(generator(0))
    assert inputs.shape == (16, 1, 28, 28) and 0 <= targets.min() and targets.max() < 12
    loss, _ = task.loss(problem.parameters, problem.buffers, (inputs, targets))
    assert loss == pytest.approx(math.log(12), rel=0.3)
