"""The example that draws embeddings with two outputs."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "embeddings_in_the_plane.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_angles_are_measured_to_the_mean_direction_of_the_class(example):
    # Two directions of each of ten classes, 4 degrees on either side of their mean.
    centres = torch.arange(10).repeat_interleave(2) * 36.0
    degrees = torch.deg2rad(centres + torch.tensor([-4.0, 4.0]).repeat(10))
    directions = torch.stack([degrees.cos(), degrees.sin()], -1)
    angles = example["angles_to_own_mean"](directions, torch.arange(10).repeat_interleave(2))
    torch.testing.assert_close(angles, torch.full((20,), 4.0), atol=1e-3, rtol=0)


def test_the_plain_loss_is_the_cross_entropy_of_inner_products(example):
    loss = example["PlainCrossEntropy"]()
    points, labels = torch.randn(5, 2), torch.tensor([0, 3, 9, 9, 1])
    scores = torch.einsum("mi,ki->mk", points, loss.weight)
    own = scores.softmax(-1)[torch.arange(5), labels]
    torch.testing.assert_close(loss(points, labels, torch.tensor(0)), -own.log().mean())


def test_every_loss_has_a_line_and_learns_and_the_figure_is_written(example, tmp_path, capsys):
    out = tmp_path / "plane.png"
    example["main"](out, 60)
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"figure: {out}" and out.read_bytes().startswith(b"\x89PNG")
    names = ["cross-entropy", "cosines, no margin", "CosFace, m = 0.1", "ArcFace, m = 0.2"]
    assert [line[:20].rstrip() for line in lines] == names
    for line in lines:  # 10% is chance
        assert float(line[20:].split("%")[0]) > 40
