"""A finished round as the export and the benchmark need it: its network, and the dense one it came from."""

from pathlib import Path

import keras

from tfprune import sparsity
from tfprune.errors import FileError, UserError
from tfprune.experiments.networks import load_model
from tfprune.runs.folder import RoundFolder, RunFolder, find_round


def strip_round(found: RoundFolder) -> keras.Model:
    """Returns a finished round's network without wrappers, its removed weights exactly zero.

    Raises:
        UserError: If the model file is damaged.
    """
    return sparsity.strip_pruning(load_model(found))


def dense_ancestor(run: RunFolder) -> Path | None:
    """Returns the folder of the dense run that a run goes back to by `--init_from`.

    Without such a run the result is None: the run started from `--weights`, or its ancestors are gone.

    Raises:
        FileError: If an ancestor's file is damaged.
        UserError: If run folders start from each other in a circle, which no training makes.
    """
    config = run.read_config()
    line = [run.path.name]
    while config.init_from:
        try:
            ancestor, _ = find_round(str(run.path.parent), config.init_from, "init_from")
        except FileError:
            raise
        except UserError:
            return None
        line.append(ancestor.path.name)
        if line[-1] in line[:-1]:
            raise UserError(
                f"--init_from={config.init_from}: the run folders in {run.path.parent} start from each other "
                f"in a circle: {' -> '.join(line)}"
            )
        config = ancestor.read_config()
        if config.regime == "dense" and not config.init_from:
            return ancestor.path
    return None
