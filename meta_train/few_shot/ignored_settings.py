"""Settings of a job that none of its methods reads, and why."""

from __future__ import annotations

from meta_train.few_shot.data_sets import DATA
from meta_train.few_shot.episodes import method_settings
from meta_train.few_shot.settings import FewShotConfig


def ignored_settings(config: FewShotConfig) -> list[str]:
    """A line for each setting that was given and that no method of the job reads.

    Args:
        config: the job.

    Examples:
        >>> ignored_settings(FewShotConfig(folder="data"))
        ['--folder is ignored: --data sine reads no files']
    """
    methods = [method_settings(name, config) for name in config.methods]
    reasons: dict[str, str] = {}
    if all(method.reader is not None for method in methods):
        why = "a reader takes the instances of --row_settings from each class"
        reasons |= dict.fromkeys(("shots", "queries", "test_queries"), why)
    if all(method.reader is not None or method.head is not None for method in methods):
        reasons["steps"] = "no method of this job takes inner steps"
    if "folder" not in DATA[config.data].__dataclass_fields__:
        why = f"--data {config.data} reads no files"
        reasons |= dict.fromkeys(("folder", "download"), why)
    if config.data == "sine" and config.ways != FewShotConfig.ways:
        reasons["ways"] = "sine curves have no classes"
    return [
        f"--{name} is ignored: {why}"
        for name, why in reasons.items()
        if getattr(config, name) not in (None, False)
    ]
