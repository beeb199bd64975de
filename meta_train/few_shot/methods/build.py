"""The update rule and the initialisation of a method, for training and for testing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from learned_opt.registry import unknown
from learned_opt.rules import list_rules
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.per_tensor_rates import RATE_RULES, create_any_rule
from learned_opt.weights import from_pretrained, list_pretrained, names_weights
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.margins.task import MarginClasses
from meta_train.few_shot.methods.settings import MethodSettings
from meta_train.few_shot.readers.episodes import SequenceEpisodes
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.tasks.base import Tensors
from meta_train.tasks.episodes.base import HEAD, EpisodeTask
from meta_train.tasks.episodes.images import ImageClasses
from meta_train.tasks.episodes.stored_heads import STORED, StoredHeads

PRETRAINED = "pretrained:"


def make_rule(method: MethodSettings, adapted: Mapping[str, Tensor]) -> UpdateRule:
    """Make the update rule of a method.

    Args:
        method: names the rule and its settings.
        adapted: the adapted parameters by name; rules with learned rates need their shapes.

    Raises:
        ValueError: an unknown rule or setting.
    """
    settings = dict(method.rule_settings)
    if method.rule in RATE_RULES:
        settings["shapes"] = [list(value.shape) for value in adapted.values()]
    elif method.rule not in list_rules():
        return _pretrained(method.rule.removeprefix(PRETRAINED), method)
    rule = create_any_rule(method.rule, **settings)
    if method.estimator_settings.get("freeze_rule") and list(rule.parameters()):
        bundled = method.rule in list_pretrained()
        example = f", such as {PRETRAINED + method.rule!r}" if bundled else ""
        raise ValueError(
            f"freeze_rule would leave the new rule {method.rule!r} untrained: name pretrained "
            f"weights{example}"
        )
    return rule


def _pretrained(name: str, method: MethodSettings) -> UpdateRule:
    if not names_weights(name):
        raise ValueError(unknown("rule", name, {*list_rules(), *RATE_RULES, *list_pretrained()}))
    if method.rule_settings:
        raise ValueError(
            f"rule_settings are for new rules: the weights of {name!r} have their own, got "
            f"{dict(method.rule_settings)}"
        )
    return from_pretrained(name)


def initial_parameters(
    method: MethodSettings,
    task: EpisodeTask
    | EmbeddingEpisodes
    | SequenceEpisodes
    | ImageClasses
    | MarginClasses
    | StoredHeads,
    seed: int = 0,
) -> tuple[Tensors, Tensors]:
    """Initial values of the parameters of a task.

    Args:
        method: says which parameters are learned and which are adapted.
        task: has the parameters.
        seed: random seed.

    Returns:
        Those that meta-training learns, and those that inner training adapts, by name.
    """
    template = task.template(seed=seed)
    learned = template
    if method.initialization == "body" and method.trained_on == "episodes":
        learned = {k: v for k, v in template.items() if not k.startswith(HEAD)}
    adapted = {k: v for k, v in template.items() if not k.startswith(STORED)}
    if method.adapted == "head":
        adapted = {k: v for k, v in template.items() if k.startswith(HEAD)}
    return learned, adapted


def trained_parts(
    method: MethodSettings,
    meta_parameters: MetaParameters,
    task: EpisodeTask | EmbeddingEpisodes | SequenceEpisodes,
) -> tuple[UpdateRule, Tensors]:
    """The rule and the initialisation to test a method with.

    Args:
        method: the method to test.
        meta_parameters: trained by this method, or by the one that it uses.
        task: test episodes.

    Returns:
        The rule, and the initialisation by name without parameters that only training had: stored
        heads, and heads for all classes at once.
    """
    rule: UpdateRule = meta_parameters.rule
    if method.trained_on != "episodes":  # Training took another rule, or none.
        rule = make_rule(method, initial_parameters(method, task)[1]).to(rule.device)
    own = task.template()
    fresh_head = method.initialization == "body"
    initialization = {
        key: value.detach().clone()
        for key, value in meta_parameters.initialization().items()
        if key in own and not (fresh_head and key.startswith(HEAD))
    }
    return rule, initialization
