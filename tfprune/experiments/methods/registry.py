"""Ways of pruning. A new one is a class of `Method` in a file of its own and a line here."""

from tfprune.errors import blame_flag
from tfprune.experiments.methods.at_once import Iterative, OneShot
from tfprune.experiments.methods.by_steps import Gradual, Sparse
from tfprune.experiments.methods.channels import CutInRounds, CutOnce, CutWhileTraining
from tfprune.experiments.methods.dense import Dense
from tfprune.experiments.methods.genetic import Genetic
from tfprune.experiments.methods.learned import Alternating, Learned
from tfprune.experiments.methods.method import Method
from tfprune.experiments.tfmot.method import Tfmot
from tfprune.models.catalog import source_of
from tfprune.runs.config import ExperimentConfig

# By --regime.
METHODS: dict[str, type[Method]] = {
    "dense": Dense,
    "one_shot": OneShot,
    "iterative": Iterative,
    "gradual": Gradual,
    "sparse": Sparse,
    "genetic": Genetic,
}
# By --method, for --regime=gradual; by the regime alone for the others.
LEARNING: dict[str, type[Method]] = {"dst": Learned, "cs": Learned, "acdc": Alternating}
# By --regime, for --prune=channels.
CUTTING: dict[str, type[Method]] = {
    "one_shot": CutOnce,
    "iterative": CutInRounds,
    "gradual": CutWhileTraining,
}
# By --pruning_engine: another library that does what one of the above asks for.
ENGINES: dict[str, type[Method]] = {"tfmot": Tfmot}


def method_of(config: ExperimentConfig) -> Method:
    """Returns the way in which an experiment prunes."""
    kind = METHODS[config.regime]
    if config.prune == "channels":
        kind = CUTTING[config.regime]
    elif config.regime == "gradual":
        kind = LEARNING.get(config.method, kind)
    method = kind(config)
    return method if config.pruning_engine == "tfprune" else ENGINES[config.pruning_engine](method)


def check_experiment(config: ExperimentConfig) -> None:
    """Checks all of an experiment that can be checked without data, weights and other runs.

    Raises:
        UserError: With the flag, the value and the rule.
    """
    config.check()
    with blame_flag("model", config.model):
        source_of(config.model)
    method_of(config).check()
