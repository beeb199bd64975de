"""Draws embeddings of images of test classes in the plane, method beside method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from learned_opt.monitoring.figures import import_matplotlib, save_figure
from meta_train.few_shot.episodes import evaluation_task
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.trained import TrainedMethod
from meta_train.few_shot.verification import draw_at
from meta_train.runtime.seeding import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 6
MAX_DRAWINGS = 20
"""Images of a class."""
COLUMNS = 3
SIZE = 3.6
"""Inches of a panel."""
THUMBNAIL = 16
"""Points of an image's height."""


class Plane(NamedTuple):
    """Embedded images in the plane of their first two principal components.

    Attributes:
        points: `[images, 2]`, of mean zero.
        share: fraction of the variance that the plane has, in [0, 1].
    """

    points: Tensor
    share: float


def principal_plane(embedded: Tensor) -> Plane:
    """Project `[images, features]` on the first two principal components.

    Examples:
        >>> principal_plane(torch.randn(100, 64)).points.shape
        torch.Size([100, 2])
    """
    centred = embedded.double() - embedded.double().mean(0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    variances = sizes.square()
    total = float(variances.sum())
    share = float(variances[:2].sum()) / total if total > 0 else math.nan
    return Plane(centred @ axes[:2].T, share)


def draw_embeddings(
    path: Path, methods: Mapping[str, TrainedMethod], config: FewShotConfig
) -> None:
    """Draw the embeddings of a few test classes, the same for all; a failure to draw is a warning.

    Nothing is drawn if no method has an embedding that is compared pair by pair.

    Args:
        path: the PNG file to write.
        methods: trained methods by name.
        config: the job, on images.
    """
    tasks = {name: evaluation_task(trained.method, config) for name, trained in methods.items()}
    shown = {
        name: (methods[name], task)
        for name, task in tasks.items()
        if isinstance(task, EmbeddingEpisodes) and task.verifies
    }
    if shown:
        save_figure(path, lambda: _figure(shown, config), dpi=120)


def _figure(
    methods: Mapping[str, tuple[TrainedMethod, EmbeddingEpisodes]], config: FewShotConfig
) -> Figure:
    import_matplotlib()
    from matplotlib.figure import Figure  # Slow to import, and only used here.

    columns = min(COLUMNS, len(methods))
    lines = math.ceil(len(methods) / columns)
    figure = Figure(figsize=(SIZE * columns, SIZE * lines + 0.3), layout="constrained")
    for k, (name, (trained, task)) in enumerate(methods.items()):
        images, labels, embedded = _embedded(trained, task, config.seed)
        plane = principal_plane(embedded)
        axis = figure.add_subplot(lines, columns, k + 1)
        _draw_plane(axis, plane.points, images, labels)
        axis.set_title(f"{name}: {100 * plane.share:.0f}% of the variance", fontsize=9)
    return figure


def _embedded(
    trained: TrainedMethod, task: EmbeddingEpisodes, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images `[M, C, H, W]`, classes `[M]` and embeddings `[M, features]`, equal images by seed."""
    classes, drawings = task.episodes.sampler.images.shape[:2]
    drawings = min(drawings, MAX_DRAWINGS)
    half = drawings // 2
    task = task.with_settings(
        ways=min(CLASSES, classes), shots=half, queries=drawings - half, inner_batch=None
    )
    source, device = generator(seed, "picture"), torch.device("cpu")
    parameters, buffers, batch = draw_at(trained.initialization, task, source, device)
    with torch.no_grad():
        embedded = task.embed(parameters, buffers, batch).flatten(1)
    episode = task.episode_of(batch)
    images = torch.cat([episode.support_x, episode.query_x])
    labels = torch.cat([episode.support_y, episode.query_y])
    return images, labels, normalize(embedded, dim=-1) if task.normalises else embedded


def _draw_plane(axis: Any, points: Tensor, images: Tensor, labels: Tensor) -> None:
    """Points in the colour of their class, and one image of each class at its mean."""
    from matplotlib import colormaps
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    for label in labels.unique().tolist():
        own = labels == label
        color = colormaps["tab10"](label % 10)
        axis.scatter(*points[own].T.tolist(), s=14, color=color, alpha=0.7, lw=0)
        image = images[own][0].float().permute(1, 2, 0)
        if len(image) == 1:  # a signal
            continue
        box = AnnotationBbox(
            OffsetImage(image.numpy(), zoom=THUMBNAIL / len(image), cmap="gray_r"),
            (float(points[own, 0].mean()), float(points[own, 1].mean())),
            pad=0.1,
            bboxprops={"edgecolor": color, "lw": 1.5},
        )
        axis.add_artist(box)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_xticks([])
    axis.set_yticks([])
