"""How sparse each round is: schedules counted in rounds, or in steps."""

from typing import Any

from tfprune.errors import UserError
from tfprune.experiments.pruning import layer_targets
from tfprune.runs.config import ExperimentConfig
from tfprune.sparsity import ConstantSparsity, GeometricDecay, PolynomialDecay, PruningSchedule


def check_target(config: ExperimentConfig, start: float) -> None:
    """Checks that the target is above the sparsity measured in the starting masks.

    Raises:
        UserError: If it is not: removed weights never return, and `sparse` keeps their number.
    """
    if config.regime != "dense" and config.target_sparsity < start:
        raise UserError(
            f"--target_sparsity={config.target_sparsity}: must be at least the starting network's "
            f"sparsity, {start:.4f}, because removed weights never return"
        )


def sparsity_levels(config: ExperimentConfig, start: float, target: float | None = None) -> list[float]:
    """Returns the sparsity asked of each pruning round, 1 to the last.

    Round k of n has the schedule's value at step k, where the schedule runs from `start` at step 0 to the
    target at step n. One-shot is one round at the target.

    Args:
        config: The experiment; `dense` and `gradual` have no such rounds.
        start: Sparsity measured in the starting masks.
        target: At the end; default: `--target_sparsity`.
    """
    if config.regime not in ("one_shot", "iterative"):
        return []
    schedule = _schedule(config, start, end_step=config.last_round, frequency=1, target=target)
    return [schedule(number)[1] for number in range(1, config.last_round + 1)]


def round_sparsity(config: ExperimentConfig, start: float, number: int) -> float | dict[str, float]:
    """Returns what `prune_to` is asked in a round: a sparsity, or one for each of `--layer_sparsity`."""
    if not config.layer_sparsity:
        return sparsity_levels(config, start)[number - 1]
    return {
        pattern: sparsity_levels(config, min(start, target), target)[number - 1]
        for pattern, target in layer_targets(config).items()
    }


def step_schedules(config: ExperimentConfig, start: float, steps: int) -> Any:
    """Returns the schedule in steps of `gradual` or `sparse`, or one for each of `--layer_sparsity`."""
    if not config.layer_sparsity:
        return step_schedule(config, start, steps)
    return {
        pattern: step_schedule(config, min(start, target), steps, target)
        for pattern, target in layer_targets(config).items()
    }


def step_schedule(
    config: ExperimentConfig, start: float, steps: int, target: float | None = None
) -> PruningSchedule:
    """Returns a schedule in steps: `start` at step 0, the target from `ramp_fraction` of `steps` on.

    That of `sparse` has the target from the start, and its updates end there. tfmot prunes at whole
    multiples of `frequency` only: for it the ramp ends at the last one.

    Raises:
        UserError: If, for tfmot, there is none; if the masks of `sparse` would not move.
    """
    end_step = max(1, round(config.ramp_fraction * steps))
    if config.regime == "sparse" and end_step <= config.frequency:
        config.refuse("frequency", f"must be below {end_step}, the steps in which the masks move")
    if config.pruning_engine == "tfmot":
        if end_step < config.frequency:
            config.refuse(
                "frequency",
                f"must be at most {end_step}, the steps of the ramp, with --pruning_engine=tfmot, which "
                "prunes at whole multiples of it only",
            )
        end_step -= end_step % config.frequency
    return _schedule(config, start, end_step=end_step, frequency=config.frequency, target=target)


def tfmot_schedule(config: ExperimentConfig, start: float, number: int, steps: int) -> Any:
    """Returns the schedule, in steps, by which tfmot prunes in a round: ours, equal to tfmot's own.

    Args:
        config: The experiment.
        start: Sparsity measured in the starting masks.
        number: The round, from 1.
        steps: Of the round.

    Raises:
        UserError: As `step_schedule`.
    """
    if config.regime == "gradual":
        return step_schedule(config, start, steps)
    level = sparsity_levels(config, start)[number - 1]
    return ConstantSparsity(level, begin_step=0, end_step=0, frequency=1)  # Once, before the first step.


def _schedule(
    config: ExperimentConfig, start: float, end_step: int, frequency: int, target: float | None = None
) -> PruningSchedule:
    target = config.target_sparsity if target is None else target
    if config.regime == "sparse":
        return ConstantSparsity(target, begin_step=0, end_step=end_step, frequency=frequency)
    if config.schedule == "constant":
        return ConstantSparsity(target, begin_step=0, frequency=frequency)
    if config.schedule == "polynomial":
        return PolynomialDecay(start, target, 0, end_step, power=config.power, frequency=frequency)
    return GeometricDecay(start, target, 0, end_step, frequency=frequency)
