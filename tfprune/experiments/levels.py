"""How sparse each round is: schedules counted in rounds, or in steps."""

from typing import Any

from tfprune.errors import UserError
from tfprune.experiments.config import ExperimentConfig
from tfprune.sparsity import ConstantSparsity, GeometricDecay, PolynomialDecay


def check_target(config: ExperimentConfig, start: float) -> None:
    """Checks that the target is above the sparsity measured in the starting masks.

    Raises:
        UserError: If it is not: removed weights never return.
    """
    if config.regime != "dense" and config.target_sparsity < start:
        raise UserError(
            f"--target_sparsity={config.target_sparsity}: must be at least the starting network's "
            f"sparsity, {start:.4f}, because removed weights never return"
        )


def sparsity_levels(config: ExperimentConfig, start: float) -> list[float]:
    """Returns the sparsity asked of each pruning round, 1 to the last.

    Round k of n has the schedule's value at step k, where the schedule runs from `start` at step 0 to the
    target at step n. One-shot is one round at the target.

    Args:
        config: The experiment; `dense` and `gradual` have no such rounds.
        start: Sparsity measured in the starting masks.
    """
    if config.regime not in ("one_shot", "iterative"):
        return []
    schedule = _schedule(config, start, end_step=config.last_round, frequency=1)
    return [schedule(number)[1] for number in range(1, config.last_round + 1)]


def step_schedule(config: ExperimentConfig, start: float, steps: int) -> Any:
    """Returns the schedule of `gradual`: `start` at step 0, the target at `ramp_fraction` of `steps`."""
    end_step = max(1, round(config.ramp_fraction * steps))
    return _schedule(config, start, end_step=end_step, frequency=config.frequency)


def _schedule(config: ExperimentConfig, start: float, end_step: int, frequency: int) -> Any:
    target = config.target_sparsity
    if config.schedule == "constant":
        return ConstantSparsity(target, begin_step=0, frequency=frequency)
    if config.schedule == "polynomial":
        return PolynomialDecay(start, target, 0, end_step, power=config.power, frequency=frequency)
    return GeometricDecay(start, target, 0, end_step, frequency=frequency)
