"""Streams of batches: stacked over runs, repeated for copies, rewound."""

import pytest
import torch
from conftest import same

from meta_train.inner.batches import BatchStream, cast
from meta_train.inner.state import stack
from meta_train.tasks.data.in_memory import InMemoryDataset, RandomRows


def make_stream(copies=1, dtype=None):
    def draw(source):
        return {
            "x": torch.randn(2, 3, generator=source),
            "y": torch.randint(9, (2,), generator=source),
        }

    sources = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    return BatchStream([draw, draw], sources, copies, dtype)


def test_batches_are_stacked_run_by_run_from_generators_of_their_own():
    stream = make_stream()
    first, second = stream.next(), stream.next()
    assert first["x"].shape == (2, 2, 3)
    source = torch.Generator().manual_seed(1)
    for batch in (first, second):
        assert torch.equal(batch["x"][1], torch.randn(2, 3, generator=source))
        assert torch.equal(batch["y"][1], torch.randint(9, (2,), generator=source))


def test_copies_see_the_same_batch():
    plain, copied = make_stream().next(), make_stream(copies=2).next()
    assert same(copied, {key: torch.cat([value, value]) for key, value in plain.items()})


def test_only_what_is_floating_point_is_cast():
    batch = make_stream(dtype=torch.float64).next()
    assert batch["x"].dtype == torch.float64
    assert batch["y"].dtype == torch.int64
    assert cast(batch, None) is batch


def test_a_stream_goes_back_to_where_it_was_marked():
    stream = make_stream()
    stream.next()
    mark = stream.mark()
    expected = [stream.next() for _ in range(3)]
    for _ in range(2):
        stream.rewind(mark)
        assert same([stream.next() for _ in range(3)], expected)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("own", [None, "of one size", "of many"])
def test_rows_of_one_data_set_are_those_of_one_run_at_a_time(own, copies):
    inputs = {"x": torch.randn(20, 3), "y": torch.randn(20, 1, dtype=torch.float64)}
    dataset = InMemoryDataset(inputs, torch.arange(20))
    among = [
        None if own is None else torch.arange(10 + run * (own == "of many")) + run
        for run in range(3)
    ]
    draws = [RandomRows(dataset, 4, rows) for rows in among]

    def sources():
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    together = BatchStream(draws, sources(), copies, torch.float32)
    alone = [(draw, source) for draw, source in zip(draws, sources(), strict=True)]
    mark = together.mark()
    expected = []
    for _ in range(3):
        batch = [draw(source) for draw, source in alone] * copies
        expected.append(cast(stack(batch), torch.float32))
        assert same(together.next(), expected[-1])
    together.rewind(mark)
    assert same([together.next() for _ in range(3)], expected)


def test_rows_of_several_data_sets_are_drawn_one_by_one():
    draws = [
        RandomRows(InMemoryDataset(torch.full((5, 2), v), torch.zeros(5)), 2) for v in (1.0, 2.0)
    ]
    inputs, _ = BatchStream(draws, [torch.Generator() for _ in range(2)]).next()
    assert torch.equal(inputs, torch.tensor([1.0, 2.0])[:, None, None].expand(2, 2, 2))
