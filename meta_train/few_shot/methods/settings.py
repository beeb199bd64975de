"""Settings of a few-shot method, grouped by the part of meta-learning that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from learned_opt.registry import look_up
from meta_train.estimators.implicit import PROXIMAL
from meta_train.few_shot.heads.episodes import HEADS
from meta_train.few_shot.margins.task import MARGINS
from meta_train.few_shot.readers.episodes import READERS
from meta_train.runtime.checks import make_plain
from meta_train.runtime.setting_names import suggest_names

INITIALIZATIONS = ("learned", "body")
TRAINED_ON = ("episodes", "classes", "nothing")


@dataclass(frozen=True, kw_only=True)
class InitializationSettings:
    """Where inner training starts, and what that was meta-trained on.

    Attributes:
        initialization: "learned" learns body and head. "body" learns the body alone; each episode
            draws a new head.
        stored_heads: number of training tasks that recur, each with a stored head that is learned
            with the body (`StoredHeads`); 0 for none.
        trained_on: "episodes", all "classes" at once (supervised training), or "nothing".
        margin: a loss with a margin (`MARGINS`), where `trained_on` is "classes"; None for the
            cross-entropy of a linear head.
        margin_settings: settings of the margin's class.
        uses: the method whose initialisation is tested, where `trained_on` is "nothing".
        begins_with: the method whose initialisation meta-training starts from.
    """

    initialization: str = "learned"
    stored_heads: int = 0
    trained_on: str = "episodes"
    margin: str | None = None
    margin_settings: Mapping[str, Any] = field(default_factory=dict)
    uses: str | None = None
    begins_with: str | None = None


@dataclass(frozen=True, kw_only=True)
class InnerTrainingSettings:
    """How a method learns from the support set.

    Attributes:
        rule: the update rule that takes the inner steps: a name from `list_rules()`, "meta-sgd" or
            "layer-step-rates", the path of a weights file, or the name of bundled weights. Write
            "pretrained:step-size-lstm" where a rule and bundled weights share a name.
        rule_settings: settings of the rule's class.
        inner_lr: inner learning rate; None takes the rule's own.
        adapted: "all" parameters, or those of the "head" (ANIL).
        head: classifies a whole episode without inner steps (`HEADS`); None takes inner steps.
        head_settings: settings of the head's class.
        reader: a network that reads the training set as a sequence, without inner steps
            (`READERS`).
        reader_settings: settings of the reader's class.
        instances: images per class in the sequences of a reader.
        train_steps: inner steps in meta-training; 0 evaluates the initialisation itself.
        test_steps: inner steps in testing.
        train_shots: support images per class in meta-training; None takes as many as in testing.
        train_ways: classes per episode in meta-training, for methods with a head; None takes as
            many as in testing. More of them make harder episodes (Snell et al. 2017 take 60).
        inner_batch: support examples per inner step, at most the support set; None takes all.
        batch_norm: normalise by the statistics of the "batch" (transductive) or of the "support"
            set.
    """

    rule: str = "sgd"
    rule_settings: Mapping[str, Any] = field(default_factory=dict)
    inner_lr: float | None = None
    adapted: str = "all"
    head: str | None = None
    head_settings: Mapping[str, Any] = field(default_factory=dict)
    reader: str | None = None
    reader_settings: Mapping[str, Any] = field(default_factory=dict)
    instances: int = 10
    train_steps: int = 1
    test_steps: int = 1
    train_shots: int | None = None
    train_ways: int | None = None
    inner_batch: int | None = None
    batch_norm: str = "batch"


@dataclass(frozen=True, kw_only=True)
class OuterTrainingSettings:
    """How the initialisation and the rule are meta-trained.

    Attributes:
        estimator: estimates the meta-gradient.
        estimator_settings: settings of the estimator's class.
        second_order: differentiate through the inner gradients; None asks the rule.
        meta_batch: episodes per outer step; sequences of a reader.
        outer: further `TrainSettings`.
    """

    estimator: str = "full"
    estimator_settings: Mapping[str, Any] = field(default_factory=dict)
    second_order: bool | None = None
    meta_batch: int = 32
    outer: Mapping[str, Any] = field(default_factory=dict)


@suggest_names({"method": "head"})
@dataclass(frozen=True, kw_only=True)
class MethodSettings(InitializationSettings, InnerTrainingSettings, OuterTrainingSettings):
    """A method on one kind of episodes: initialisation x rule x adapted parameters x estimator.

    Raises:
        ValueError: names the setting and the value.
        TypeError: an unknown setting; the message gives the nearest one.

    Examples:
        >>> anil = MethodSettings(adapted="head", inner_lr=0.4, train_steps=5, test_steps=5)
        >>> dataclasses.replace(anil, estimator="first-order")
    """

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        make_plain(self)
        look_up("initialisation", self.initialization, dict.fromkeys(INITIALIZATIONS))
        look_up("value of trained_on", self.trained_on, dict.fromkeys(TRAINED_ON))
        if self.head is not None:
            look_up("head", self.head, HEADS)
        elif self.head_settings:
            raise ValueError(f"head_settings need a head, got {dict(self.head_settings)}")
        self._check_reader()
        for name in ("train_steps", "test_steps", "stored_heads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("train_shots", "inner_batch", "meta_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.train_ways is not None and (self.head is None or self.train_ways < 2):
            raise ValueError(
                "train_ways must be at least 2, and needs a method with a head, whose parameters "
                f"do not depend on the number of classes; got {self.train_ways} and head "
                f"{self.head!r}"
            )
        if self.trained_on == "classes" and self.initialization != "body":
            raise ValueError(
                'trained_on="classes" trains a head for all classes, which no episode has: set '
                'initialization to "body"'
            )
        if self.margin is not None:
            look_up("loss with a margin", self.margin, MARGINS)
            if self.trained_on == "episodes":
                raise ValueError(
                    f"margin {self.margin!r} is a loss of all classes at once: set trained_on to "
                    '"classes"'
                )
        elif self.margin_settings:
            raise ValueError(
                f"margin_settings need a margin: set margin to one of {', '.join(MARGINS)}"
            )
        if self.trained_on == "nothing" and self.uses is None:
            raise ValueError(
                'trained_on="nothing" needs the method whose initialisation to take: set uses'
            )
        if self.stored_heads and (self.head is not None or self.trained_on != "episodes"):
            raise ValueError("stored_heads needs a method that takes inner steps on episodes")
        if self.stored_heads and self.initialization != "body":
            raise ValueError(
                "stored_heads belong to training tasks, and test tasks have none: set "
                'initialization to "body"'
            )

    def _check_reader(self) -> None:
        if self.reader is None:
            if self.reader_settings:
                given = dict(self.reader_settings)
                raise ValueError(f"reader_settings need a reader, got {given}")
            return
        look_up("reader", self.reader, READERS)
        if self.head is not None:
            raise ValueError(f"a method has a head or a reader, got {self.head} and {self.reader}")
        if self.trained_on != "episodes" or self.initialization != "learned":
            raise ValueError('a reader needs trained_on="episodes" and initialization="learned"')
        if self.train_steps or self.test_steps:
            raise ValueError("a reader takes no inner steps: set train_steps and test_steps to 0")
        if self.instances < 2:
            raise ValueError(f"instances must be at least 2, got {self.instances}")

    @property
    def proximal(self) -> float | None:
        """Strength of iMAML's pull of inner training towards the initialisation (its lambda)."""
        if self.estimator != "implicit":
            return None
        return float(self.estimator_settings.get("proximal", PROXIMAL))

    @property
    def transductive(self) -> bool:
        """Whether the predicted class of a query image depends on the other query images."""
        if self.reader is not None:
            return False
        mixes = self.head is not None and HEADS[self.head].mixes_queries
        return self.batch_norm == "batch" or mixes
