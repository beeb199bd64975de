"""Names of tensors that begin with a prefix, such as those of one layer."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def names_with_prefix(prefix: str, names: Collection[str]) -> set[str]:
    """The names that a prefix means.

    The whole name of a module or a tensor means it alone: "fc1" is not "fc10", too. Anything else
    means every name that begins with it.

    Examples:
        >>> names = ["fc1.weight", "fc10.weight"]
        >>> sorted(names_with_prefix("fc1", names)), sorted(names_with_prefix("fc", names))
        (['fc1.weight'], ['fc1.weight', 'fc10.weight'])
    """
    whole = {name for name in names if name == prefix or name.startswith(f"{prefix}.")}
    return whole or {name for name in names if name.startswith(prefix)}


def names_with_prefixes(prefixes: Iterable[str], names: Collection[str]) -> set[str]:
    """The names that any of the prefixes means."""
    return {name for prefix in prefixes for name in names_with_prefix(prefix, names)}
