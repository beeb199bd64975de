"""Streams of batches: stacked over runs, repeated for copies, rewound."""

import torch
from conftest import same

from meta_train.inner.batches import BatchStream, cast


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
