"""One method of the few-shot table: its place in the grid, its settings, its published figures."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

from learned_opt.registry import look_up, unknown
from learned_opt.rules import list_rules
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.per_tensor_rates import RATE_RULES, create_any_rule
from learned_opt.weights import from_pretrained, list_pretrained, names_weights
from meta_train.estimators.implicit import PROXIMAL
from meta_train.few_shot.heads.task import METHODS, ScoredEpisodes
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.tasks.base import Tensors
from meta_train.tasks.episodes.base import HEAD, EpisodeTask
from meta_train.tasks.episodes.omniglot import OmniglotClasses, OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine
from meta_train.tasks.episodes.stored_heads import STORED, StoredHeads

Episodes = TypeVar("Episodes", Sine, "OmniglotEpisodes | ScoredEpisodes")
INITIALIZATIONS = ("learned", "body")
PRETRAINED = "pretrained:"
TRAINED_ON = ("episodes", "classes", "nothing")


@dataclass(frozen=True, kw_only=True)
class FewShotMethod:
    """A method: initialisation x rule x adapted parameters x estimator.

    Attributes:
        source: the paper.
        initialization: "learned" as a whole, or the "body" alone: heads are then drawn anew for
            each episode.
        stored_heads: that many training tasks come again and again, each with a head of its own,
            stored and learned with the body (`StoredHeads`); 0 for none.
        rule: takes the inner steps; one of all rules, which is made anew, the path of a weights
            file, or a bundled rule: "digits-lstm", or with "pretrained:" before it where a rule
            to be trained has the same name, "pretrained:step-size-lstm".
        rule_settings: of it; shapes are filled in.
        inner_lr: the inner rate; None is the rule's own.
        adapted: see `EpisodeTask`.
        method: reads whole episodes, with no inner step; see `meta_train.few_shot.heads.task`.
        trained_on: "episodes", the "classes" all at once, or "nothing" of its own.
        uses: the row whose initialisation this one is tested with, where it trains on nothing.
        begins_with: the row whose initialisation the training of this one begins with.
        estimator: of the meta-gradient.
        estimator_settings: of it.
        second_order: see `TrainSettings`.
        train_steps: inner steps in training; 0 judges the initialisation itself.
        test_steps: inner steps in testing.
        train_shots: support images of a class in training; None are as many as in testing.
        inner_batch: see `EpisodeTask`; less where the support set is smaller.
        batch_norm: see `meta_train.tasks.episodes.networks`.
        meta_batch: episodes of an outer step.
        outer: further settings of meta-training, of `TrainSettings`.
        twenty_ways: what is otherwise for 20-way classification.
        five_shots: what is otherwise for 5 shots.
        sine: what is otherwise for the sine curves; None where the method only classifies.
        published_as: what the published figures are of, if they are of more than this row.
        published: accuracy and its interval, in percent, by (ways, shots).
    """

    source: str
    initialization: str = "learned"
    stored_heads: int = 0
    rule: str = "sgd"
    rule_settings: Mapping[str, Any] = field(default_factory=dict)
    inner_lr: float | None = None
    adapted: str = "all"
    method: str | None = None
    trained_on: str = "episodes"
    uses: str | None = None
    begins_with: str | None = None
    estimator: str = "full"
    estimator_settings: Mapping[str, Any] = field(default_factory=dict)
    second_order: bool | None = None
    train_steps: int = 1
    test_steps: int = 1
    train_shots: int | None = None
    inner_batch: int | None = None
    batch_norm: str = "batch"
    meta_batch: int = 32
    outer: Mapping[str, Any] = field(default_factory=dict)
    twenty_ways: Mapping[str, Any] = field(default_factory=dict)
    five_shots: Mapping[str, Any] = field(default_factory=dict)
    sine: Mapping[str, Any] | None = field(default_factory=dict)
    published_as: str = ""
    published: Mapping[tuple[int, int], tuple[float, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a row that says nothing."""
        look_up("initialisation", self.initialization, dict.fromkeys(INITIALIZATIONS))
        look_up("thing to train on", self.trained_on, dict.fromkeys(TRAINED_ON))
        for name in ("train_steps", "test_steps", "stored_heads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("train_shots", "inner_batch", "meta_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.trained_on == "classes" and self.initialization != "body":
            raise ValueError(
                'a row that is trained on "classes" has a head of all of them, which no episode '
                'has: set initialization to "body"'
            )
        if self.trained_on == "nothing" and self.uses is None:
            raise ValueError('a row that is trained on "nothing" must say whose training it uses')
        if self.stored_heads and (self.method is not None or self.trained_on != "episodes"):
            raise ValueError("stored_heads needs a row with inner steps that trains on episodes")
        if self.stored_heads and self.initialization != "body":
            raise ValueError(
                "stored_heads are of training tasks, and no test task has one: set initialization "
                'to "body"'
            )

    def at(self, ways: int, shots: int) -> FewShotMethod:
        """The row as it is for so many ways and shots of Omniglot."""
        own = dict(self.five_shots if shots >= 5 else {})
        return replace(self, **{**own, **(self.twenty_ways if ways >= 20 else {})})

    def on_sine(self) -> FewShotMethod:
        """The row as it is for sine curves.

        Raises:
            ValueError: the method only classifies.
        """
        if self.sine is None:
            raise ValueError(f"this row ({self.source}) only classifies: it has no sine curves")
        return replace(self, **self.sine)

    @property
    def proximal(self) -> float | None:
        """How strongly inner training is held at the initialisation (iMAML's lambda)."""
        if self.estimator != "implicit":
            return None
        return float(self.estimator_settings.get("proximal", PROXIMAL))

    @property
    def transductive(self) -> bool:
        """Whether a query image's class depends on the other query images."""
        mixes = self.method is not None and METHODS[self.method].mixes_queries
        return self.batch_norm == "batch" or mixes

    def train_task(
        self, ways: int, shots: int, **settings: Any
    ) -> OmniglotEpisodes | OmniglotClasses | ScoredEpisodes | StoredHeads:
        """What an Omniglot row is meta-trained on.

        Args:
            ways: classes of an episode.
            shots: support images of a class in testing.
            **settings: of `OmniglotEpisodes`.

        Raises:
            ValueError: the row trains on nothing of its own.
        """
        if self.trained_on == "nothing":
            raise ValueError(f"this row trains nothing: it takes the initialisation of {self.uses}")
        if self.trained_on == "classes":
            names = OmniglotClasses.__dataclass_fields__
            return OmniglotClasses(**{k: v for k, v in settings.items() if k in names})
        return self._stored(self._episodes(ways, self.train_shots or shots, settings))

    def test_task(
        self, ways: int, shots: int, **settings: Any
    ) -> OmniglotEpisodes | ScoredEpisodes:
        """What it is tested on; arguments as for `train_task`."""
        return self._episodes(ways, shots, {"split": "test", **settings})

    def _episodes(
        self, ways: int, shots: int, settings: Mapping[str, Any]
    ) -> OmniglotEpisodes | ScoredEpisodes:
        batch = self.inner_batch
        task = OmniglotEpisodes(
            ways=ways,
            shots=shots,
            inner_batch=None if batch is None else min(batch, ways * shots),
            **{
                "batch_norm": self.batch_norm,
                "adapted": self.adapted,
                "fresh": "head" if self.initialization == "body" else "nothing",
                **settings,
            },
        )
        return task if self.method is None else ScoredEpisodes(task, self.method)

    def _stored(self, episodes: Episodes) -> Episodes | StoredHeads:
        if not self.stored_heads:
            return episodes
        assert isinstance(episodes, EpisodeTask)
        return StoredHeads(replace(episodes, fresh="nothing"), self.stored_heads)

    def sine_train_task(self, shots: int, **settings: Any) -> Sine | StoredHeads:
        """What a row is meta-trained on to fit sine curves from so many points."""
        return self._stored(self.sine_task(shots, **settings))

    def sine_task(self, shots: int, **settings: Any) -> Sine:
        """Sine curves from so many points."""
        batch = self.inner_batch
        return Sine(
            shots=shots,
            inner_batch=None if batch is None else min(batch, shots),
            **{
                "adapted": self.adapted,
                "fresh": "head" if self.initialization == "body" else "nothing",
                **settings,
            },
        )

    def make_rule(self, adapted: Mapping[str, Tensor]) -> UpdateRule:
        """Build the rule for the parameters that are adapted, by name."""
        settings = dict(self.rule_settings)
        if self.rule in RATE_RULES:
            settings["shapes"] = [list(value.shape) for value in adapted.values()]
        elif self.rule not in list_rules():
            return self._pretrained(self.rule.removeprefix(PRETRAINED))
        rule = create_any_rule(self.rule, **settings)
        if self.estimator_settings.get("freeze_rule") and list(rule.parameters()):
            known = f", {PRETRAINED + self.rule!r} say" if self.rule in list_pretrained() else ""
            raise ValueError(
                f"freeze_rule would leave rule {self.rule!r} untrained: name pretrained "
                f"weights{known}"
            )
        return rule

    def _pretrained(self, name: str) -> UpdateRule:
        if not names_weights(name):
            raise ValueError(
                unknown("rule", name, {*list_rules(), *RATE_RULES, *list_pretrained()})
            )
        if self.rule_settings:
            raise ValueError(
                f"rule_settings are for rules that are made anew: the weights of {name!r} come "
                f"with theirs, got {dict(self.rule_settings)}"
            )
        return copy.deepcopy(from_pretrained(name))  # which all callers share

    def start(
        self, task: EpisodeTask | OmniglotClasses | ScoredEpisodes | StoredHeads, seed: int = 0
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What is learned of a task's parameters, and what is adapted, by name: initial values."""
        template = task.template(seed=seed)
        learned = template
        if self.initialization == "body" and self.trained_on == "episodes":
            learned = {k: v for k, v in template.items() if not k.startswith(HEAD)}
        adapted = {k: v for k, v in template.items() if not k.startswith(STORED)}
        if self.adapted == "head":
            adapted = {k: v for k, v in template.items() if k.startswith(HEAD)}
        return learned, adapted

    def ready(
        self, meta_parameters: MetaParameters, task: EpisodeTask | ScoredEpisodes
    ) -> tuple[UpdateRule, Tensors]:
        """The rule and phi to test with, of a learner that this row, or one that it uses, trained.

        Args:
            meta_parameters: what was learned.
            task: episodes to test on.
        """
        rule: UpdateRule = meta_parameters.rule
        if self.trained_on != "episodes":  # with another rule than it was trained with
            rule = self.make_rule(self.start(task)[1]).to(rule.device)
        own = task.template()
        phi = {
            key: value.detach().clone()
            for key, value in meta_parameters.initialization().items()
            # Not what only training had: stored heads, a head of all characters as classes.
            if key in own and not (self.initialization == "body" and key.startswith(HEAD))
        }
        return rule, phi
