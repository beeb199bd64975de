"""The benchmark of a training iteration: what it times, and its table."""

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def program():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "speed")
        yield importlib.import_module("gpt_iteration")


def test_the_model_and_its_batch_have_the_size_that_docs_give(program):
    model = program.make_model()
    assert sum(p.numel() for p in model.parameters()) == 1_020_416
    assert program.BATCH * program.LENGTH == 1536
    assert len(model.blocks) == 5
    assert model.symbols.weight.shape == (97, 128)


def test_an_iteration_trains_the_model(program):
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(program.SYMBOLS, (1, 9), generator=generator)
    for name, code in program.contestants(["AdamW", "Muon", "orthogonal-momentum"]):
        trainer = program.Trainer(name, code)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.iterate(text[:, :-1], text[:, 1:])
        trainer.iterate(text[:, :-1], text[:, 1:])
        after = list(trainer.model.parameters())
        assert not any(torch.equal(p, q) for p, q in zip(before, after, strict=True)), (name, code)
        assert all(torch.isfinite(p).all() for p in after)
        assert len(trainer.passes) == len(trainer.steps) == 2
        assert min(trainer.passes + trainer.steps) > 0


def test_all_take_part_in_every_turn_and_medians_are_shown(program, monkeypatch):
    clock = iter(range(1000))
    order = []

    class Turn:
        def __init__(self, name, code):
            self.name, self.passes, self.steps = name, [], []

        def iterate(self, symbols, following):
            assert torch.equal(symbols[:, 1:], following[:, :-1])
            order.append(self.name)
            self.passes.append(2.0)
            self.steps.append(float(next(clock)))

    monkeypatch.setattr(program, "Trainer", Turn)
    monkeypatch.setattr(program, "WARM_UP", 1)
    rows = program.measure(["AdamW", "Muon"], 3)
    assert order == 4 * ["AdamW", "Muon"]
    # Steps of AdamW: 0, which does not count, 2, 4 and 6; of Muon 1, 3, 5 and 7.
    assert [row["passes_ms"] for row in rows] == [2000, 2000]
    assert [row["step_ms"] for row in rows] == [4000, 5000]
    assert [row["share"] for row in rows] == [2, 2.5]


def test_the_table_shows_small_shares_with_a_digit_more(program):
    rows = [
        {"optimizer": name, "code": "C", "passes_ms": 134.6, "step_ms": 3.456, "share": share}
        for name, share in (("AdamW", 0.0123), ("lstm", 0.456))
    ]
    lines = program.table({"rows": rows}).splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert shown[2] == ["AdamW", "C", "135", "3.46", "1.2%"]
    assert shown[3] == ["`lstm`", "C", "135", "3.46", "46%"]
