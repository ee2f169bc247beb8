"""The first call of a network on the data that it is to be trained on."""

from typing import Any

import keras

from tfprune.errors import UserError
from tfprune.reading import reason_of
from tfprune.runs.config import ExperimentConfig


def outputs_for(config: ExperimentConfig, model: keras.Model, inputs: Any) -> Any:
    """Returns the outputs of a network in inference mode.

    Raises:
        UserError: If it cannot take the inputs.
    """
    try:
        return model(inputs, training=False)
    except Exception as error:
        raise UserError(
            f"{config.flag('model')}: does not take the examples of {config.flag('dataset')}: "
            f"{reason_of(error)}"
        ) from error
