"""Whether a run has the settings of the study that it mirrors, and where it departs from them.

A figure is a reproduction only if nothing differs. What the study leaves open (batch size, scope, policy of
AutoAugment, seed) may be chosen; `flags/base.flags` gives the reasons.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `config` imports this module.
    from tfprune.runs.config import ExperimentConfig

BASELINE = "baseline"


@dataclass(frozen=True)
class PaperSetting:
    """What the study states of one experiment.

    `starts_from` is (section, round or None for the last), `starts_on` that run's dataset if not the same.
    """

    dataset: str
    regime: str
    epochs: tuple[int, ...]
    learning_rate: float
    head_learning_rate: float = 0.0
    lr_boundaries_epochs: tuple[int, ...] = ()
    target_sparsity: float = 0.0
    rounds: int = 1
    starts_from: tuple[str, int | None] | None = (BASELINE, None)
    starts_on: str = ""


# Stated for every experiment.
_COMMON = {
    "model": "resnet34",
    "width": 64,
    "stem": "imagenet",
    "image_size": 224,
    "lr_factor": 0.1,
    "weight_decay": 5e-4,
    "mixed_precision": "none",
    "score": "magnitude",
    "granularity": "weight",
    "block_size": (1, 1),
    "sparsity_m_by_n": (),
    "layer_sparsity": (),
    "spare_ends": False,
    "batchnorm_after_pruning": "keep",
    "lr_schedule": "step",
    "warmup_epochs": 0.0,
    "distill_from": "",
}
_ITERATIVE_EPOCHS = (10, 10, 10, 10, 15, 15)

PAPER_SETTINGS: dict[tuple[str, str], PaperSetting] = {
    (BASELINE, "cifar10"): PaperSetting("cifar10", "dense", (20,), 1e-5, 1e-4, starts_from=None),
    (BASELINE, "cifar100"): PaperSetting("cifar100", "dense", (30,), 1e-5, 1e-4, starts_from=None),
    ("4.3.1", "cifar10"): PaperSetting("cifar10", "one_shot", (40,), 3e-4, 0.0, (20,), 0.995),
    ("4.3.2", "cifar10"): PaperSetting("cifar10", "one_shot", (40,), 3e-4, 0.0, (30,), 0.95),
    ("4.3.3", "cifar10"): PaperSetting(
        "cifar10", "iterative", _ITERATIVE_EPOCHS, 1e-4, 0.0, (), 0.995, 6, ("4.3.2", None)
    ),
    ("4.3.4", "cifar100"): PaperSetting("cifar100", "one_shot", (30,), 3e-4, 0.0, (19,), 0.95),
    ("4.3.5", "cifar100"): PaperSetting("cifar100", "iterative", _ITERATIVE_EPOCHS, 3e-5, 0.0, (), 0.95, 6),
    ("4.3.6", "cifar100"): PaperSetting(
        "cifar100", "iterative", _ITERATIVE_EPOCHS, 3e-5, 0.0, (), 0.95, 6, ("4.3.5", 3)
    ),
    ("4.3.7", "cifar100"): PaperSetting(
        "cifar100", "iterative", (12, 12, 12, 12, 16, 16), 3e-5, 0.0, (), 0.993, 6, ("4.3.6", None)
    ),
    ("4.3.8", "cifar100"): PaperSetting(
        "cifar100", "dense", (55,), 1e-3, 0.0, (20, 31, 46), starts_from=("4.3.2", None), starts_on="cifar10"
    ),
}
PAPER_SECTIONS = tuple(sorted({section for section, _ in PAPER_SETTINGS}))


def paper_differences(
    config: "ExperimentConfig", used: dict[str, int], available: dict[str, int], start: dict[str, Any] | None
) -> list[str]:
    """Lists where a run departs from its section of the study, `width=16 (paper: 64)`.

    Args:
        config: The run; its `paper_section` is one of `PAPER_SECTIONS`.
        used: Examples used, by split.
        available: Examples that the dataset has, by split.
        start: `result.json` of the round named by `--init_from`; None without one.

    Returns:
        The differences, the starting network's among them; none for a faithful run.
    """
    setting = PAPER_SETTINGS.get((config.paper_section, config.dataset))
    if setting is None:
        datasets = [dataset for section, dataset in PAPER_SETTINGS if section == config.paper_section]
        return [f"dataset={config.dataset} (paper: {' or '.join(datasets)})", *_departures(config, _COMMON)]
    expected = dict(_COMMON)
    for name in ("regime", "epochs", "learning_rate", "head_learning_rate", "lr_boundaries_epochs"):
        expected[name] = getattr(setting, name)
    expected["target_sparsity"] = setting.target_sparsity
    if setting.regime == "iterative":
        expected |= {"rounds": setting.rounds, "schedule": "geometric"}
    differences = _departures(config, expected)
    if config.autoaugment == "none":
        differences.append("autoaugment=none (paper: AutoAugment)")
    if config.prune_layers and config.regime != "dense":
        differences.append(f"prune_layers={config.prune_layers} (paper: every convolution)")
    differences += [
        f"{split}_examples={used[split]} (paper: {available[split]})"
        for split in used
        if used[split] != available[split]
    ]
    return differences + _start_differences(config, setting, start)


def _departures(config: "ExperimentConfig", expected: dict[str, Any]) -> list[str]:
    return [
        f"{name}={_text(getattr(config, name))} (paper: {_text(value)})"
        for name, value in expected.items()
        if getattr(config, name) != value
    ]


def _start_differences(
    config: "ExperimentConfig", setting: PaperSetting, start: dict[str, Any] | None
) -> list[str]:
    if start is None:
        if setting.starts_from is not None:
            return [f"init_from= (paper: {setting.starts_from[0]})"]
        return [] if config.weights == "imagenet" else [f"weights={config.weights} (paper: imagenet)"]
    if setting.starts_from is None:
        return [f"init_from={config.init_from} (paper: ImageNet weights)"]
    section, number = setting.starts_from
    expected_round = start["rounds"] if number is None else number
    dataset = setting.starts_on or setting.dataset
    if (start["paper_section"], start["dataset"], start["round"]) != (section, dataset, expected_round):
        where = f"{section} on {dataset}" + ("" if number is None else f", round {number}")
        return [f"init_from={config.init_from} (paper: {where})"]
    inherited = start["paper_setting_differences"]
    return [f"init_from={config.init_from}, itself with {'; '.join(inherited)}"] if inherited else []


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value) or "none"
