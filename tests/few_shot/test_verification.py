"""Equal error rates by hand, their interval, and verification with trained heads."""

import json
import math

import pytest
import torch
from few_shot_cases import MadeUp, take_made_up

from meta_train.few_shot.heads.episodes import HEADS, EmbeddingEpisodes
from meta_train.few_shot.methods.registry import get_method
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.table import as_json, render
from meta_train.few_shot.trained import TrainedMethod
from meta_train.few_shot.verification import Verification, equal_error_rate, verify
from meta_train.jobs.cli import main
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.sampler import Episode

CPU = torch.device("cpu")
VERIFIERS = [name for name in HEADS if name not in ("r2d2", "metaoptnet")]


def rate(same, different):
    """The rate of scores of pairs of one class and of two, in a mixed order."""
    scores = torch.tensor([*same, *different], dtype=torch.float64)
    kinds = torch.tensor([True] * len(same) + [False] * len(different))
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    return equal_error_rate(scores[order], kinds[order])


@pytest.mark.parametrize(
    ("same", "different", "expected"),
    [
        ([3, 4], [1, 2], 0.0),  # separated
        ([1, 2], [3, 4], 1.0),  # the wrong way round
        ([5, 5, 5], [5, 5], 0.5),  # all are tied: a coin
        ([4, 2], [3, 1], 0.5),
        # Threshold 6: no error of accepting, one pair of four is rejected. Threshold 5: one of four
        # is accepted, one of four rejected.
        ([9, 8, 6, 2], [5, 4, 3, 1], 0.25),
        # Unequal numbers: at 5, a third is rejected and a fifth accepted; at 3, a third and two
        # fifths. The line between them crosses at a third.
        ([9, 8, 2], [5, 3, 1, 0, -1], 1 / 3),
        # The tie at 5 has one of two pairs of one class and one of three of two classes. Rejected
        # falls from a half to 0 while accepted rises from 0 to a third: equal at part 0.6.
        ([9, 5], [5, 1, 0], 0.2),
        # Ties on both sides: at 7 (rejected 2/3, accepted 0), then at 5 (0, 2/4).
        ([7, 5, 5], [5, 5, 2, 2], 2 / 3 * (1 - 4 / 7)),
        ([math.inf, 1], [-math.inf, 0], 0.0),
        # One pair of each kind is enough.
        ([1.0], [0.0], 0.0),
    ],
)
def test_equal_error_rates_by_hand(same, different, expected):
    assert rate(same, different) == pytest.approx(expected, abs=1e-12)


def test_the_rate_depends_on_the_order_of_scores_alone():
    torch.manual_seed(0)
    scores, same = torch.randn(200).double(), torch.rand(200) < 0.3
    first = equal_error_rate(scores, same)
    assert equal_error_rate(scores.exp() * 7 - 3, same) == first
    # Turned round, it is the complement.
    assert equal_error_rate(-scores, same) == pytest.approx(1 - first)


def test_the_rate_of_two_normal_distributions():
    """Means 2 apart at deviation 1: the errors meet half way, at Phi(-1)."""
    torch.manual_seed(0)
    same = torch.arange(200_000) < 100_000
    scores = torch.randn(200_000, dtype=torch.float64) + 2 * same
    assert equal_error_rate(scores, same) == pytest.approx(0.158655, abs=0.003)


def test_scores_that_are_no_numbers_have_no_rate():
    assert math.isnan(rate([1.0, math.nan], [0.0]))


@pytest.mark.parametrize("kind", [True, False])
def test_pairs_of_both_kinds_are_needed(kind):
    with pytest.raises(ValueError, match="needs pairs of one class and of two"):
        equal_error_rate(torch.arange(3), torch.full((3,), kind))


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("batch_norm", ["batch", "support"])
def test_verification_is_the_rate_of_all_pairs_of_all_episodes(name, batch_norm):
    settings = {"ways": 3, "shots": 2, "queries": 3, "batch_norm": batch_norm}
    task = EmbeddingEpisodes(MadeUp(**settings, split="test"), name)
    initialization = task.template(seed=1)
    found = verify(initialization, task, episodes=5, seed=4)
    assert (found.same, found.different) == (5 * 9 * 2, 5 * 9 * 4)
    scores, kinds = [], []
    for index in range(5):
        problem = task.sample(generator(4, "episode", index), CPU)
        batch = problem.full()
        own = task.score_pairs(initialization, problem.buffers, batch)
        episode = Episode(*batch[:4])
        assert own.shape == (9, 6)
        scores += own.flatten().tolist()
        kinds += [int(q) == int(s) for q in episode.query_y for s in episode.support_y]
    expected = equal_error_rate(torch.tensor(scores), torch.tensor(kinds))
    assert found.equal_error_rate == pytest.approx(expected, abs=1e-12)
    assert 0 < found.interval < 0.3
    assert verify(initialization, task, episodes=5, seed=4) == found
    assert verify(initialization, task, episodes=5, seed=5) != found


def test_pair_scores_of_a_head_are_those_of_its_classes_with_one_image_each():
    task = EmbeddingEpisodes(MadeUp(ways=3, shots=1, queries=2), "siamese")
    problem = task.sample(generator(0), CPU)
    scores = task.predict(problem.parameters, problem.buffers, problem.full())
    pairs = task.score_pairs(problem.parameters, problem.buffers, problem.full())
    torch.testing.assert_close(pairs, scores)


def test_the_interval_shrinks_with_the_number_of_episodes_and_covers_the_spread():
    task = EmbeddingEpisodes(MadeUp(ways=3, shots=1, queries=2), "prototypical")
    initialization = task.template()
    few = [verify(initialization, task, episodes=10, seed=seed) for seed in range(12)]
    spread = torch.tensor([one.equal_error_rate for one in few]).std().item()
    mean = sum(one.interval for one in few) / len(few)
    assert 0.4 < mean / (1.96 * spread) < 2.5
    many = verify(initialization, task, episodes=160, seed=0)
    assert 0.15 < many.interval / mean < 0.4  # 1/4 is expected
    assert math.isnan(verify(initialization, task, episodes=1).interval)


def test_heads_without_a_score_of_pairs_are_refused():
    task = EmbeddingEpisodes(MadeUp(ways=3), "r2d2")
    assert not task.verifies
    with pytest.raises(ValueError, match="head 'r2d2' does not compare pairs of images"):
        verify(task.template(), task, episodes=2)
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        verify({}, task, episodes=0)


def test_a_verification_that_diverged_is_said_and_written_as_null():
    task = EmbeddingEpisodes(MadeUp(ways=3), "prototypical")
    broken = {key: torch.full_like(value, math.nan) for key, value in task.template().items()}
    found = verify(broken, task, episodes=2)
    assert math.isnan(found.equal_error_rate)
    trained = TrainedMethod("arcface", get_method("arcface").omniglot, None, {}, {})
    evaluation = Evaluation("accuracy", (0,), torch.full((1, 2), 0.3), 0)
    written = json.loads(json.dumps(as_json(trained, evaluation, found), allow_nan=False))
    assert written["verification"]["equal_error_rate"] is None
    assert as_json(trained, evaluation)["verification"] is None
    text = render({"arcface": (trained, evaluation)}, "title", {"arcface": found})
    lines = text.splitlines()
    assert lines[2].split() == ["inner", "steps", "accuracy"]
    assert lines[4] == "EER: diverged (equal error rate: do two examples belong to the same class?)"


def test_the_table_has_a_column_of_equal_error_rates_where_a_method_has_one():
    def trained(name):
        return TrainedMethod(name, get_method(name).omniglot, None, {}, {})

    rows = {
        "maml": (trained("maml"), Evaluation("accuracy", (0, 1, 3), torch.full((3, 4), 0.5), 0)),
        "triplet": (trained("triplet"), Evaluation("accuracy", (0,), torch.full((1, 4), 0.9), 0)),
    }
    lines = render(rows, "title", {"triplet": Verification(0.0123, 0.004, 8, 9)}).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == ["accuracy", "after", "0", "steps", "1", "step", "3", "steps", "EER"]
    assert lines[3].split() == ["maml", "50.0+-0.0", "50.0+-0.0", "50.0+-0.0", "-"]
    assert lines[4].split() == ["triplet", "90.0+-0.0", "-", "-", "1.2+-0.4"]
    assert lines[-1].startswith("EER: equal error rate")
    more = Evaluation("accuracy", (0, 1, 2, 3), torch.full((4, 4), 0.5), 0)
    rows["maml"] = (trained("maml"), more)
    lines = render(rows, "title", {"triplet": Verification(0.0123, 0.004, 8, 9)}).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[4].split() == ["triplet", "90.0+-0.0", "-", "90.0+-0.0", "1.2+-0.4"]
    assert "EER" not in render(rows, "title")


def test_the_job_prints_and_saves_verification(tmp_path, monkeypatch, capsys):
    take_made_up(monkeypatch)
    out = tmp_path / "run"
    given = ["few-shot", "--row", "siamese,r2d2", "--data", "omniglot", "--ways", "3"]
    given += ["--queries", "1", "--test_queries", "2", "--outer_steps", "1", "--episodes", "4"]
    given += ["--progress", "false", "--device", "cpu", "--task_settings", '{"hidden": 4}']
    assert main([*given, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert rows["r2d2"]["verification"] is None
    found = rows["siamese"]["verification"]
    assert (found["same_pairs"], found["different_pairs"]) == (4 * 6, 4 * 12)
    assert 0 <= found["equal_error_rate"] <= 1 and found["interval"] > 0
    line = next(line for line in printed.splitlines() if line.startswith("siamese  "))
    shown = f"{100 * found['equal_error_rate']:.1f}+-{100 * found['interval']:.1f}"
    assert line.endswith(shown)
