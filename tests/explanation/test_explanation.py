"""`explain`: numbers, sentences and pictures of a rule beside others."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learned_opt import UpdateRule, create_rule, explain, save_rule
from learned_opt.explanation.explain import find
from learned_opt.explanation.measurements import measured
from learned_opt.monitoring.event_writer import EventWriter

PANELS = ["update", "memory", "schedule", "scale", "dynamics", "symmetry", "tensors"]


@pytest.fixture
def one_training(monkeypatch):
    """Layers are compared in one training, which takes less time."""
    monkeypatch.setattr(measured, "COMPARED_TRAININGS", ("narrow",))


@pytest.fixture(scope="module")
def page():
    """An LSTM, untrained, beside Adam and another Adam."""
    rule = create_rule("lstm", hidden_sizes=(4,))
    return explain(rule, compare=["adam", create_rule("adam", betas=(0.5, 0.9)), rule], name="mine")


def test_a_rule_stands_beside_others_but_not_beside_itself(page):
    assert page.name == "mine"
    assert list(page.findings.compared) == ["adam", "adam 2"]
    momenta = [found.echo.momentum for found in page.findings.compared.values()]
    assert momenta[0] == pytest.approx(0.9, abs=0.01)
    assert momenta[1] == pytest.approx(0.5, abs=0.03)


def test_each_panel_has_a_sentence_and_a_picture(page):
    assert list(page.sentences) == PANELS
    for panel, sentence in page.sentences.items():
        assert sentence.endswith(".") and "nan" not in sentence
        picture = io.BytesIO()
        page.figure(panel).savefig(picture, format="png", dpi=40)
        assert len(picture.getvalue()) > 3000
    with pytest.raises(ValueError, match="unknown panel 'scael'; did you mean 'scale'"):
        page.figure("scael")


def test_a_notebook_shows_the_sentences(page):
    first, *lines = repr(page).splitlines()
    assert first == f"Explanation of mine ({page.findings.subtitle})"
    assert lines == [f"  {panel}: {text}" for panel, text in page.sentences.items()]


def test_no_text_of_the_page_lies_outside_of_it(page):
    figure = page.figure()
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    boxes = [text.get_window_extent() for text in figure.texts]
    for axis in figure.axes:
        boxes.append(axis.get_tightbbox())
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


def test_panels_do_not_overlap(page):
    figure = page.figure()
    figure.draw_without_rendering()
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    boxes += [text.get_window_extent() for text in figure.texts]
    for k, one in enumerate(boxes):
        for other in boxes[k + 1 :]:
            width = min(one.x1, other.x1) - max(one.x0, other.x0)
            height = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert width <= 3 or height <= 3, (k, one, other)  # pixels


def test_numbers_are_json(page):
    numbers = json.loads(json.dumps(page.numbers, allow_nan=False))
    assert numbers["own"]["echo"]["momentum"] == pytest.approx(
        page.findings.own.echo.momentum, rel=1e-5
    )
    assert list(numbers["compared"]) == ["adam", "adam 2"]
    assert len(numbers["trainings"]["path"]["paths"]) == 24
    assert len(json.dumps(numbers)) < 500_000


def test_a_page_is_saved(page, tmp_path):
    page.save(tmp_path / "page.png")
    page.save(tmp_path / "panel.png", panel="scale")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["page.png", "panel.png"]
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_page_is_written_to_tensorboard(page, tmp_path):
    writer = EventWriter(tmp_path)
    page.write(writer, step=7)
    writer.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    assert sorted(tags["images"]) == [f"explain/{k}_{name}" for k, name in enumerate(PANELS, 1)]
    (momentum,) = events.Scalars("explain/memory/momentum")
    assert momentum.step == 7
    assert momentum.value == pytest.approx(page.findings.own.echo.momentum)
    assert "explain/symmetry/rows_and_columns" in tags["scalars"]
    (text,) = events.Tensors("explain/text_summary")
    assert page.sentences["scale"] in text.tensor_proto.string_val[0].decode()


def test_a_rule_without_state_or_company_is_drawn(one_training):
    page = explain("sgd", compare=[])
    assert page.findings.compared == {}
    assert page.sentences["dynamics"] == (
        "It keeps no state: an update depends on the present gradient alone."
    )
    figure = page.figure()
    figure.draw_without_rendering()
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert "no state" in words


class Mine(UpdateRule):
    """A rule of a user's own, whose delta is a function of the gradient."""

    def __init__(self, delta):
        super().__init__()
        self.delta = delta

    def init_tensor_state(self, parameter):
        return {}

    def update(self, gradients, parameters, states, context):
        return [self.delta(gradient) for gradient in gradients], list(states)


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (torch.zeros_like, "Mine moves no weight: all its updates are zero"),
        (lambda g: g * float("nan"), "the first update of Mine is not finite"),
        (torch.randn_like, "Mine cannot be stepped: RuntimeError: vmap: called random operation"),
        (lambda g: {}["mean"], "Mine cannot be stepped: KeyError: it lacks 'mean'"),
    ],
)
def test_a_rule_that_cannot_be_explained_is_named_in_one_line(one_training, delta, message):
    with pytest.raises(ValueError) as caught:
        explain(Mine(delta), compare=())
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_an_update_without_regard_to_the_gradient_is_not_uphill(one_training):
    explanation = explain(Mine(torch.ones_like), compare=())
    assert explanation.findings.own.update_curve.like_sign == pytest.approx(0, abs=1e-6)
    assert "is unrelated to the gradient" in explanation.sentences["update"]


def test_nothing_of_the_caller_changes(one_training):
    rule = create_rule("gated-lstm", hidden_size=2).to(torch.bfloat16)
    weights = {key: value.clone() for key, value in rule.state_dict().items()}
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    explain(rule, compare=[])
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert rule.dtype == torch.bfloat16
    for key, value in rule.state_dict().items():
        assert (
            torch.equal(value, weights[key]) and value.requires_grad == weights[key].requires_grad
        )


def test_names_are_bundled_weights_files_or_fresh_rules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("digits-lstm", 0)[0] == "digits-lstm"
    assert find("adam", 0)[0] == "adam"
    name, fresh = find("lstm", 3)
    assert name == "lstm, untrained"
    again, other = find("lstm", 3)[1], find("lstm", 4)[1]
    assert torch.equal(fresh.head.weight, again.head.weight)
    assert not torch.equal(fresh.head.weight, other.head.weight)
    save_rule(fresh, "mine.safetensors")
    name, loaded = find("mine.safetensors", 0)
    assert name == "mine" and torch.equal(loaded.head.weight, fresh.head.weight)
    with pytest.raises(ValueError, match="unknown rule 'lstmm'; did you mean 'lstm'"):
        find("lstmm", 0)


def test_the_measurements_need_no_matplotlib():
    code = """
import sys
sys.modules.update(dict.fromkeys(["matplotlib", "tensorboard"]))
from learned_opt.explanation import explain
from learned_opt.explanation.measurements import measured
measured.COMPARED_TRAININGS = ("narrow",)
page = explain("sgd", compare=[])
print(page.sentences["scale"])
try:
    page.save("page.png")
except ImportError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "Ten times larger gradients make updates 10 times as large, over all ten decades.",
        "the pictures of explain need matplotlib, which is not installed: "
        "python -m pip install 'learned-opt[tensorboard]'",
    ]
