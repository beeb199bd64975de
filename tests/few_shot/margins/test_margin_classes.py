"""All classes of a split as one problem: batches, names, the growing margin, refusals."""

import json
import math

import pytest
import torch
from few_shot_cases import TINY, SmallClasses, take_made_up
from torch.func import vmap
from torch.nn.functional import normalize

from learned_opt.rules import create_rule
from meta_train.few_shot.margins.task import MARGINS, MarginClasses
from meta_train.inner.state import stack
from meta_train.jobs.cli import main
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer

CPU = torch.device("cpu")


def drawn(task, seed):
    problem = task.sample(torch.Generator().manual_seed(0), CPU)
    return problem.draw(torch.Generator().manual_seed(seed))


def test_a_triplet_batch_has_some_drawings_of_some_classes():
    task = MarginClasses(SmallClasses(batch_size=12), "triplet", drawings=3)
    first, again, other = (drawn(task, seed) for seed in (0, 0, 1))
    images, labels, _ = first
    assert images.shape == (12, 1, 28, 28)
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(images, again[0]) and not torch.equal(images, other[0])
    # The made-up images of a class differ by a shade, those of two classes by their pattern.
    distances = (images.unsqueeze(1) - images.unsqueeze(0)).abs().amax((2, 3, 4))
    same = labels.unsqueeze(1) == labels.unsqueeze(0)
    assert distances[same].max() < 0.2 < distances[~same].min()
    assert len({image.sum().item() for image in images}) == 12


def test_other_batches_have_images_of_any_class():
    images, labels, _ = drawn(MarginClasses(SmallClasses(batch_size=50), "arcface"), 0)
    assert images.shape == (50, 1, 28, 28)
    assert set(labels.tolist()) == set(range(12))


@pytest.mark.parametrize("margin", MARGINS)
def test_the_loss_of_runs_is_that_of_each_run_and_the_body_has_the_networks_names(margin):
    task = MarginClasses(SmallClasses(), margin)
    names = SmallClasses().template()
    body = {key: value.shape for key, value in names.items() if key.startswith("body.")}
    own = {key: value.shape for key, value in task.template().items()}
    weights = {} if margin == "triplet" else {"head.weight": torch.Size([12, 4])}
    assert own == {**body, **weights}
    parameters = [task.template(seed=seed) for seed in range(3)]
    batches = [drawn(task, seed) for seed in range(3)]
    alone = [task.loss(p, {}, b)[0] for p, b in zip(parameters, batches, strict=True)]
    together, _ = vmap(task.loss, (0, None, 0))(stack(parameters), {}, stack(batches))
    torch.testing.assert_close(together, torch.stack(alone))


def test_the_loss_is_the_cross_entropy_of_the_cosines_with_the_margin():
    task = MarginClasses(SmallClasses(), "cosface", scale=5.0, margin=0.25)
    parameters, (images, labels, step) = task.template(), drawn(task, 0)
    body = SmallClasses().network.body
    body.load_state_dict({k[5:]: v for k, v in parameters.items() if k.startswith("body.")})
    cosines = normalize(body(images), dim=1) @ normalize(parameters["head.weight"], dim=1).T
    scores = 5 * cosines
    for row, label in enumerate(labels.tolist()):
        scores[row, label] = 5 * (cosines[row, label] - 0.25)
    expected = torch.nn.functional.cross_entropy(scores, labels)
    loss, _ = task.loss(parameters, {}, (images, labels, step))
    torch.testing.assert_close(loss, expected)


def test_the_margin_grows_with_the_outer_step_also_after_a_resumed_run(tmp_path):
    def trainer(outer_steps, decay=1.0):
        task = MarginClasses(SmallClasses(), "sphereface", start=10.0, decay=decay, floor=0.5)
        settings = TrainSettings(
            estimator="full",
            objective="last",
            objective_data="validation",
            horizons=(0,),
            outer_steps=outer_steps,
            runs=2,
            schedule="constant",
            gates_every=0,
            param_rescale_range=0.0,
        )
        rule = create_rule("sgd")
        start = task.template()
        folder = tmp_path / "run"
        return task, MetaTrainer(
            rule, task, settings, initialization=start, folder=folder, device="cpu"
        )

    task, first = trainer(3)
    assert drawn(task, 0)[2] == 0
    first.train(progress=False)
    images, labels, step = drawn(task, 0)
    assert step == 2  # the last of the steps 0, 1 and 2
    easy = task.loss(task.template(), {}, (images, labels, torch.tensor(0)))[0]
    hard = task.loss(task.template(), {}, (images, labels, torch.tensor(100)))[0]
    assert hard > easy
    task, resumed = trainer(5)
    resumed.resume()
    resumed.train(progress=False)
    assert drawn(task, 0)[2] == 4
    with pytest.raises(ValueError, match=r"settings\.decay=1\.0, not 2\.0"):
        trainer(7, decay=2.0)[1].resume()


@pytest.mark.parametrize("margin", MARGINS)
def test_training_separates_made_up_classes(margin):
    task = MarginClasses(SmallClasses(batch_size=24), margin)
    parameters = {key: value.requires_grad_() for key, value in task.template().items()}
    optimizer = torch.optim.Adam(parameters.values(), 1e-2)
    losses = []
    for seed in range(40):
        loss, _ = task.loss(parameters, {}, drawn(task, seed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize(
    ("size", "drawings", "message"),
    [
        (8, 3, "a batch must be 3 drawings of each of 2 or more classes, got batch_size 8"),
        (4, 4, "a batch must be 4 drawings of each of 2 or more classes, got batch_size 4"),
    ],
)
def test_a_batch_of_one_class_is_refused(size, drawings, message):
    with pytest.raises(ValueError) as error:
        MarginClasses(SmallClasses(batch_size=size), "triplet", drawings=drawings)
    assert str(error.value) == message


def test_more_classes_than_there_are_and_more_drawings_than_there_are_are_refused():
    task = MarginClasses(SmallClasses(batch_size=52), "triplet")
    with pytest.raises(ValueError, match="of a class has 13 classes, but there are 12"):
        drawn(task, 0)
    task = MarginClasses(SmallClasses(batch_size=18), "triplet", drawings=9)
    with pytest.raises(ValueError, match="a class has 8 images, got drawings=9"):
        drawn(task, 0)


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ("arcface", '{"margin_settings": {"scale": 0}}', "scale must be positive, got 0"),
        ("cosface", '{"margin_settings": {"margin": -1}}', "margin must not be negative, got -1"),
        ("sphereface", '{"margin_settings": {"margin": 2.5}}', "must be a whole number, got 2.5"),
        ("triplet", '{"margin_settings": {"drawings": 8}}', "a batch must be 8 drawings of each"),
        ("arcface", '{"margin": "arcfac"}', "did you mean 'arcface'"),
        ("arcface", '{"margin_settings": {"scal": 1}}', "did you mean 'scale'"),
        ("arcface", '{"margin_settings": {"scale": "a"}}', "scale must be a number, got 'a'"),
        ("arcface", '{"margin_settings": {"classes": 3}}', "classes is no setting: the data"),
        ("maml", '{"margin": "arcface"}', 'set trained_on to "classes"'),
        ("fine-tuning", '{"margin_settings": {"scale": 1}}', "margin_settings need a margin"),
        ("arcface", '{"margin": null, "margin_settings": {"scale": 1}}', "need a margin"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(row, settings, message, tmp_path, monkeypatch,
                                                capsys):  # fmt: skip
    take_made_up(monkeypatch)
    out = tmp_path / "run"
    given = [*TINY, "--data", "omniglot", "--ways", "3", "--queries", "1", "--test_queries", "2"]
    given += ["--task_settings", '{"hidden": 4}', "--row", row, "--row_settings", settings]
    try:
        status = main([*given, "--out", str(out)])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not out.exists()


def test_validation_keeps_the_best_embedding_and_resumes(tmp_path, monkeypatch):
    take_made_up(monkeypatch)
    train = {"runs": 2, "schedule": "constant", "validate_every": 1, "checkpoint_every": 1}
    given = ["few-shot", "--row", "arcface", "--data", "omniglot", "--ways", "3", "--queries", "1"]
    given += ["--test_queries", "2", "--episodes", "4", "--validate", "5", "--progress", "false"]
    given += ["--task_settings", '{"hidden": 4}', "--train", json.dumps(train), "--device", "cpu"]
    unbroken, broken = ([*given, "--out", str(tmp_path / name)] for name in "ab")
    assert main([*unbroken, "--outer_steps", "3"]) == 0
    assert main([*broken, "--outer_steps", "1"]) == 0
    assert main([*broken, "--outer_steps", "3", "--resume", "true"]) == 0
    rows = [json.loads((tmp_path / name / "table.json").read_text())["rows"] for name in "ab"]
    found, resumed = (one["arcface"] for one in rows)
    assert found["validation"]["episodes"] == 5 and 0 <= found["validation"]["error"] < 1
    for key in ("results", "verification", "validation"):
        assert found[key] == resumed[key]


def test_the_first_loss_of_arcface_is_that_of_guessing_with_a_margin():
    """Weights are drawn in all directions, so the scale sets the first loss."""
    task = MarginClasses(SmallClasses(batch_size=64), "arcface", scale=1e-6)
    loss, _ = task.loss(task.template(), {}, drawn(task, 0))
    assert loss.item() == pytest.approx(math.log(12), abs=1e-4)
