"""The few-shot command: help, methods of all kinds, output files, one-line errors."""

import copy

import pytest
import torch
from few_shot_cases import SMALL_SINE, TINY, results_of, take_made_up
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learned_opt.adaptation import adapt, load_initialization
from meta_train.few_shot.episodes import evaluation_task, method_settings
from meta_train.few_shot.evaluation import adapt_once
from meta_train.few_shot.methods.registry import METHODS, get_method, list_methods
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.table import render
from meta_train.few_shot.trained import TrainedMethod
from meta_train.few_shot.training import make_trainer, train_settings
from meta_train.jobs.cli import main
from meta_train.jobs.few_shot.cli import build_parser
from meta_train.tasks.episodes.sine import Sine, SineNetwork

CPU = torch.device("cpu")
mse_loss = torch.nn.functional.mse_loss


@pytest.fixture
def characters(monkeypatch):
    """Made-up characters for Omniglot's."""
    take_made_up(monkeypatch)


def test_help_lists_every_method_by_name():
    text = build_parser().format_help()
    starred = [line.split()[1] for line in text.splitlines() if line.startswith("  * ")]
    others = [line.split()[0] for line in text.splitlines() if line.startswith("    ")]
    assert starred == list_methods(sine=True)
    assert all(name in starred or name in others for name in METHODS)
    for name in FewShotConfig.__dataclass_fields__:
        assert f"--{name}" in text


def test_the_other_command_mentions_it_and_stays_as_it_was(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m meta_train few-shot --help" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        main(["--row", "maml"])


def test_the_gates_of_a_learned_rule_are_drawn_by_layer(tmp_path):
    out = tmp_path / "run"
    assert main([*TINY, *SMALL_SINE, "--row", "meta-lstm", "--out", str(out)]) == 0
    results = EventAccumulator(str(out / "tensorboard" / "results"), {"images": 0}).Reload()
    assert [event.step for event in results.Images("gates/by_layer")] == [0]


def test_a_method_writes_all_its_files(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TINY, *SMALL_SINE, "--row", "meta-sgd", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "initialization.safetensors", "table.json", "sine.png", "checkpoints",
        "tensorboard",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "sine curves from 10 points" in printed and "MSE" in printed
    assert max(len(line) for line in printed.splitlines() if str(out) not in line) <= 105
    results = EventAccumulator(str(out / "tensorboard" / "results"), {"scalars": 0}).Reload()
    scores = [event.step for event in results.Scalars("test/MSE_by_inner_step")]
    assert scores == list(range(11))
    assert results.Tensors("1 final table/text_summary")
    final = results.Scalars("final/MSE")[0].value
    assert final == results.Scalars("test/MSE_by_inner_step")[1].value  # it tests after one step
    found = results_of(out)["meta-sgd"]
    assert found["outer_steps"] == 3 and found["episodes"] == 6 and found["metric"] == "MSE"
    assert [one["steps"] for one in found["results"]] == list(range(11))
    learned = load_initialization(out / "initialization.safetensors")
    assert learned.card["results"] == found["results"]
    assert learned.rule is not None and learned.steps == 1
    x = torch.linspace(-1, 1, 5).unsqueeze(1)
    module = adapt(SineNetwork((4,)), (x, x.sin()), initialization=learned, loss=mse_loss)
    assert module(x).shape == (5, 1)
    assert main([*TINY, "--config", str(out / "config.yaml"), "--out", str(tmp_path / "b")]) == 0
    assert results_of(tmp_path / "b")["meta-sgd"]["results"] == found["results"]


def test_all_methods_of_sine_curves(tmp_path, capsys, monkeypatch):
    names = ["maml", "anil", "joint", "reptile-sgd", "imaml", "learned-step-size-lstm"]
    monkeypatch.setattr("meta_train.few_shot.settings.list_methods", lambda sine: names)
    monkeypatch.setattr("meta_train.few_shot.plots.CURVE_STEPS", (0, 1))
    given = [*TINY, *SMALL_SINE, "--row", "all", "--steps", "[0, 1]", "--out", str(tmp_path / "a")]
    assert main(given) == 0
    assert list(results_of(tmp_path / "a")) == names
    assert (tmp_path / "a" / "sine.png").stat().st_size > 10_000
    for name in names:
        with safe_open(tmp_path / "a" / name / "initialization.safetensors", "pt") as file:
            assert any(key.startswith("parameters/body") for key in file.keys())  # noqa: SIM118
    table = capsys.readouterr().out.split("MSE after")[1]
    assert [line.split()[0] for line in table.splitlines()[1:7]] == names
    before = results_of(tmp_path / "a")
    assert main([*given, "--resume", "true"]) == 0  # nothing is left to train
    assert results_of(tmp_path / "a") == before


@pytest.mark.parametrize(
    "name",
    ["maml", "maml-fresh-head", "maml-stored-heads", "anil", "learned-adam-lstm", "prototypical",
     "r2d2", "fine-tuning", "nearest-neighbour"],
)  # fmt: skip
def test_methods_that_classify(name, tmp_path, characters, capsys):
    out = tmp_path / "run"
    given = [*TINY, "--data", "omniglot", "--row", name, "--ways", "3", "--queries", "2"]
    given += ["--test_queries", "3", "--train", '{"runs": 2}', "--out", str(out)]
    assert main([*given, "--task_settings", '{"hidden": 4}']) == 0
    assert "Omniglot, 3-way 1-shot" in capsys.readouterr().out
    found = results_of(out)[name]
    assert found["metric"] == "accuracy"
    assert all(0 <= one["mean"] <= 1 for one in found["results"])
    learned = load_initialization(out / "initialization.safetensors")
    fresh = name in ("maml-fresh-head", "maml-stored-heads", "fine-tuning", "nearest-neighbour")
    assert fresh != any(key.startswith("head") for key in learned.parameters) or name in (
        "prototypical",
        "r2d2",
    )


def test_settings_are_taken_as_they_are():
    given = {"rule_settings": {"a": "off", "b": ["1_000"]}, "inner_lr": None, "second_order": True}
    before = copy.deepcopy(given)
    config = FewShotConfig(row_settings=given, task_settings={"hidden": [4, 5]})
    assert config.row_settings == given == before
    assert config.task_settings == {"hidden": (4, 5)}


def test_a_method_in_double_precision(tmp_path):
    given = [*TINY, "--task_settings", '{"hidden": [4]}', "--row", "anil", "--validate", "2"]
    given += ["--train", '{"runs": 2, "dtype": "float64"}', "--out", str(tmp_path / "run")]
    assert main(given) == 0
    learned = load_initialization(tmp_path / "run" / "initialization.safetensors")
    assert all(value.dtype == torch.float64 for value in learned.parameters.values())


def test_zero_steps_of_maml_are_joint_training():
    """Both evaluate the initialisation itself: equal meta-gradients on equal episodes."""
    found = []
    for name, changes in (("maml", {"train_steps": 0}), ("joint", {})):
        config = FewShotConfig(row=name, row_settings=changes, outer_steps=2)
        trainer = make_trainer(name, config, CPU, None)
        trainer.train(progress=False)
        found.append(trainer.average.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    task = Sine(shots=10, queries=10)
    initial = {key: value.clone().requires_grad_() for key, value in task.template().items()}
    trainer = make_trainer("joint", FewShotConfig(row="joint"), CPU, None)
    runs = trainer.groups.runs[0]
    reduced = trainer.take_outer_step().estimate
    losses = [task.loss(initial, {}, one.draw_validation(None))[0] for one in runs.problems]
    joint = torch.autograd.grad(torch.stack(losses).mean(), list(initial.values()))
    for gradient, expected in zip(reduced.gradients, joint, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_settings_of_training_come_from_the_method_and_then_from_the_user():
    config = FewShotConfig(row="maml-negative-rate", train={"lr": 0.5})
    settings = train_settings(method_settings(config.row, config), config)
    assert settings.inner_lr == -0.01 and settings.lr == 0.5 and settings.runs == 25
    assert settings.objective == "last" and settings.outer_steps == 3000


def test_tables_are_80_characters_wide():
    values = torch.full((11, 4), 12.345)
    method = method_settings("maml", FewShotConfig())
    name = max(METHODS, key=len)
    for metric in ("MSE", "accuracy"):
        evaluation = Evaluation(metric, tuple(range(11)), values, 0)
        one = TrainedMethod(name, method, None, {}, {}), evaluation
        lines = render({name: one, "other": one}, "title").splitlines()
        assert max(map(len, lines)) <= 80
        assert all(f" {cell}" in lines[-2] for cell in lines[-2].split()[1:])


def test_episodes_that_cannot_be_tested_are_refused_before_training(tmp_path, characters, capsys):
    given = [*TINY, "--data", "omniglot", "--ways", "3", "--queries", "1", "--test_queries", "8"]
    given += ["--task_settings", '{"hidden": 4}', "--out", str(tmp_path / "run")]
    assert main(given) == 2
    assert "together at most the 8 images of a class, got 1 and 8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_quiet_curves_have_a_picture_too(tmp_path):
    quiet = ["--task_settings", '{"hidden": [4], "amplitude": [0.1, 0.5]}', "--steps", "[0, 1]"]
    assert main([*TINY, *quiet, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "sine.png").exists()


def test_the_file_of_anil_adapts_the_head_alone(tmp_path):
    assert main([*TINY, *SMALL_SINE, "--row", "anil", "--out", str(tmp_path / "run")]) == 0
    learned = load_initialization(tmp_path / "run" / "initialization.safetensors")
    assert learned.only == ("head.",)
    x = torch.linspace(-1, 1, 5).unsqueeze(1)
    adapted = adapt(SineNetwork((4,)), (x, x.cos()), initialization=learned, loss=mse_loss)
    moved = {k for k, v in adapted.named_parameters() if not torch.equal(v, learned.parameters[k])}
    assert "head.bias" in moved and moved <= {"head.bias", "head.weight"}


@pytest.mark.parametrize("name", ["maml", "anil", "imaml", "meta-sgd", "learned-adam-lstm"])
def test_a_file_adapts_a_module_as_the_method_was_tested(name, tmp_path):
    given = [*TINY, *SMALL_SINE, "--row", name, "--out", str(tmp_path / "run")]
    assert main(given) == 0
    learned = load_initialization(tmp_path / "run" / "initialization.safetensors")
    method = get_method(name).on_sine()
    problem, found = adapt_once(
        learned.rule,
        learned.parameters,
        evaluation_task(method, FewShotConfig(task_settings={"hidden": [4]})),
        seed=7,
        steps=(method.test_steps,),
        lr=method.inner_lr,
        proximal=method.proximal,
    )
    module = adapt(SineNetwork((4,)), problem.full(), initialization=learned, loss=mse_loss)
    for key, value in module.named_parameters():
        torch.testing.assert_close(value.detach(), found[method.test_steps][key])
    assert (learned.proximal is None) == (name != "imaml")


def test_seeds_begin_with_other_initialisations():
    initial = []
    for seed in (0, 0, 1):
        trainer = make_trainer("maml", FewShotConfig(seed=seed), CPU, None)
        initial.append(trainer.meta_parameters.initialization()["body.0.weight"].detach())
    assert torch.equal(initial[0], initial[1]) and not torch.equal(initial[0], initial[2])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--row_settings", '{"test_steps": -1}'], "test_steps must be at least 0, got -1"),
        (["--row_settings", '{"inner_batch": 0}'], "inner_batch must be at least 1, got 0"),
        (["--row_settings", '{"trained_on": "classes"}'], 'set initialization to "body"'),
        (
            ["--row_settings", '{"trained_on": "nothing"}'],
            "needs the method whose initialisation to take: set uses",
        ),
        (["--row_settings", '{"head": "relation"}'], "head 'relation' only classifies"),
        (["--row_settings", '{"begins_with": "maml"}'], "methods need one another: maml -> maml"),
        (
            ["--row", "maml,anil", "--row_settings", '{"begins_with": "anil"}'],
            "methods need one another: maml -> anil -> anil",
        ),
        (["--seed", "99999999999999999999"], "seed must be from 0 to 2**63 - 1"),
    ],
)
def test_impossible_methods_are_refused_before_anything_is_done(given, message, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main([*TINY, *given, "--out", str(out)])
    assert stop.value.code == 2 and message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


@pytest.mark.parametrize(("shots", "queries"), [(1, 15), (5, 15), (6, 14), (19, 1)])
def test_query_images_are_what_the_support_leaves(shots, queries):
    assert FewShotConfig(data="omniglot", shots=shots).query_examples(testing=True) == queries


def test_a_file_says_what_it_was_tested_on(tmp_path, characters):
    given = [*TINY, "--data", "omniglot", "--row", "prototypical", "--ways", "3"]
    given += ["--task_settings", '{"hidden": 2}', "--train", '{"runs": 2}', "--test_queries", "3"]
    assert main([*given, "--out", str(tmp_path / "run")]) == 0
    card = load_initialization(tmp_path / "run" / "initialization.safetensors").card
    told = card["episodes_of"]
    assert (told["hidden"], told["ways"], told["queries"]) == (2, 3, 3)
    assert (told["split"], told["split_by"], told["part"]) == ("test", "alphabet", "background")
    assert "folder" not in told
