"""Learned embeddings: heads that classify without inner steps, margins, and baselines."""

from __future__ import annotations

from dataclasses import replace

from meta_train.few_shot.methods.presets import CLASSES, EMBEDDING
from meta_train.few_shot.methods.spec import FewShotMethod, published

FEATURES_OF_FINE_TUNING = replace(
    EMBEDDING, initialization="body", trained_on="nothing", uses="fine-tuning"
)

HEADS = {
    "r2d2": FewShotMethod(
        source="Bertinetto et al. 2019, arXiv 1805.08136",
        omniglot=replace(EMBEDDING, head="r2d2"),
        sine=None,
    ),
    "metaoptnet": FewShotMethod(
        source="Lee et al. 2019, arXiv 1904.03758",
        omniglot=replace(EMBEDDING, head="metaoptnet"),
        sine=None,
    ),
    "siamese": FewShotMethod(
        source="Koch et al. 2015; figures as in Finn et al. 2017",
        omniglot=replace(EMBEDDING, head="siamese"),
        sine=None,
        published=published(97.3, 98.4, 88.2, 97.0),
    ),
    "matching": FewShotMethod(
        source="Vinyals et al. 2016, arXiv 1606.04080",
        omniglot=replace(EMBEDDING, head="matching"),
        sine=None,
        published=published(98.1, 98.9, 93.8, 98.5),
    ),
    "prototypical": FewShotMethod(
        source="Snell et al. 2017, arXiv 1703.05175",
        omniglot=replace(EMBEDDING, head="prototypical"),
        sine=None,
        published=published(98.8, 99.7, 96.0, 98.9),
    ),
    "hallucination": FewShotMethod(
        source="Wang et al. 2018, arXiv 1801.05401: prototypical, and imagined examples",
        omniglot=replace(EMBEDDING, head="hallucination"),
        sine=None,
    ),
    "relation": FewShotMethod(
        source="Sung et al. 2018, arXiv 1711.06025",
        omniglot=replace(EMBEDDING, head="relation"),
        sine=None,
        published=published((99.6, 0.2), (99.8, 0.1), (97.6, 0.2), (99.1, 0.1)),
    ),
}

MARGINS = {
    "sphereface": FewShotMethod(
        source="Liu et al. 2017, arXiv 1704.08063",
        omniglot=replace(CLASSES, margin="sphereface", head="cosine-prototype"),
        sine=None,
    ),
    "cosface": FewShotMethod(
        source="Wang et al. 2018, arXiv 1801.09414; AM-softmax is the same",
        omniglot=replace(CLASSES, margin="cosface", head="cosine-prototype"),
        sine=None,
    ),
    "arcface": FewShotMethod(
        source="Deng et al. 2019, arXiv 1801.07698",
        omniglot=replace(CLASSES, margin="arcface", head="cosine-prototype"),
        sine=None,
    ),
    "triplet": FewShotMethod(
        source="Schroff et al. 2015, arXiv 1503.03832: semi-hard negatives",
        omniglot=replace(CLASSES, margin="triplet", head="euclidean-prototype"),
        sine=None,
    ),
}

BASELINES = {
    "fine-tuning": FewShotMethod(
        source="baseline: train on all classes at once, then adapt all layers and a new head",
        omniglot=replace(CLASSES, rule="adam", inner_lr=1e-2, test_steps=20),
        sine=None,
    ),
    "nearest-neighbour": FewShotMethod(
        source="baseline: nearest support image in the features of fine-tuning",
        omniglot=replace(FEATURES_OF_FINE_TUNING, head="nearest-neighbour"),
        sine=None,
    ),
    "nearest-prototype": FewShotMethod(
        source="baseline: nearest class mean, by cosine, in the features of fine-tuning",
        omniglot=replace(FEATURES_OF_FINE_TUNING, head="cosine-prototype"),
        sine=None,
    ),
}
