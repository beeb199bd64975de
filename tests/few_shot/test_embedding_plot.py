"""Embeddings of test characters in the plane."""

import math

import pytest
import torch
from few_shot_cases import take_made_up
from matplotlib.offsetbox import AnnotationBbox

from meta_train.few_shot import embedding_plot
from meta_train.few_shot.embedding_plot import draw_embeddings, principal_plane
from meta_train.few_shot.episodes import evaluation_task, method_settings
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.trained import TrainedMethod
from meta_train.jobs.cli import main


def trained(name, config):
    method = method_settings(name, config)
    start = evaluation_task(method, config).template()
    return TrainedMethod(name, method, None, start, {})


@pytest.fixture
def config(monkeypatch):
    take_made_up(monkeypatch)
    return FewShotConfig(row="arcface", data="omniglot", ways=3, test_queries=2)


def test_points_of_a_plane_keep_their_distances():
    torch.manual_seed(0)
    inside = torch.randn(30, 2, dtype=torch.float64) * torch.tensor([3.0, 1.0])
    axes, _ = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))
    plane = principal_plane(inside @ axes[:2] + 5)
    assert plane.share == pytest.approx(1)
    torch.testing.assert_close(torch.pdist(plane.points), torch.pdist(inside))
    assert plane.points.mean(0).abs().max() < 1e-12


def test_the_share_is_that_of_the_two_largest_variances():
    # Along four axes the squared distances from the mean are 16, 4, 1 and 1, twice each.
    points = torch.cat([torch.diag(torch.tensor([4.0, 2, 1, 1])) * sign for sign in (1, -1)])
    plane = principal_plane(points)
    assert plane.share == pytest.approx(20 / 22)
    assert plane.points.abs().amax(0).tolist() == pytest.approx([4, 2])
    assert math.isnan(principal_plane(torch.ones(5, 3)).share)


def test_every_panel_has_the_same_drawings_of_a_few_characters(config):
    rows = {name: trained(name, config) for name in ("arcface", "siamese")}
    tasks = {name: evaluation_task(one.method, config) for name, one in rows.items()}
    shown = {name: (one, tasks[name]) for name, one in rows.items()}
    figure = embedding_plot._figure(shown, config)
    assert [axis.get_title().split(":")[0] for axis in figure.axes] == ["arcface", "siamese"]
    for axis in figure.axes:
        # The made-up characters have 8 drawings each.
        assert [len(dots.get_offsets()) for dots in axis.collections] == [8] * 6
        assert sum(isinstance(artist, AnnotationBbox) for artist in axis.artists) == 6
    images, labels, embedded = embedding_plot._embedded(rows["arcface"], tasks["arcface"], 0)
    assert images.shape == (48, 1, 28, 28) and labels.bincount().tolist() == [8] * 6
    assert len(images.unique(dim=0)) == 48
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(48))  # cosines: directions alone
    others, _, lengths = embedding_plot._embedded(rows["siamese"], tasks["siamese"], 0)
    assert torch.equal(others, images) and lengths.norm(dim=1).std() > 0.01


def test_methods_without_a_score_of_pairs_have_no_picture(config, tmp_path):
    path = tmp_path / "embeddings.png"
    draw_embeddings(path, {name: trained(name, config) for name in ("r2d2", "maml")}, config)
    assert not path.exists()
    draw_embeddings(path, {name: trained(name, config) for name in ("r2d2", "triplet")}, config)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("row", ["triplet", "relation"])
def test_the_job_draws_the_picture(row, tmp_path, monkeypatch):
    take_made_up(monkeypatch)
    out = tmp_path / "run"
    given = ["few-shot", "--row", row, "--data", "omniglot", "--ways", "3", "--queries", "1"]
    given += ["--test_queries", "2", "--outer_steps", "1", "--episodes", "4", "--device", "cpu"]
    given += ["--progress", "false", "--task_settings", '{"hidden": 4}', "--out", str(out)]
    assert main(given) == 0
    assert (out / "embeddings.png").stat().st_size > 5000
