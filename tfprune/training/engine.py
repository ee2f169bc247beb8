"""What runs the steps of a fit: Keras, or another that follows the protocol of Keras's `fit`."""

from typing import Any

import keras


class Engine:
    """Trains compiled models by Keras; a subclass does by other means what `keras.Model.fit` does.

    Attributes:
        name: The engine's name.
    """

    name = "keras"

    def chosen(self, model: keras.Model, batches: Any, goes_on: bool) -> "Engine":
        """Returns the engine that is to train; itself, unless it stands for a choice of several.

        Args:
            model: The model, ready to be trained; afterwards it is as it was.
            batches: Those of the epochs to come.
            goes_on: Whether the model's optimizer has trained already, in a fit that was interrupted.
        """
        return self

    def check(self, model: keras.Model) -> None:
        """Checks that the engine can train a compiled model.

        Raises:
            ValueError, ImportError: If it cannot; the message names what it cannot train, or what is missing.
        """

    def trainer(self, model: keras.Model) -> Any:
        """Returns an object whose `fit` is called as that of `keras.Model`; raises as `check`."""
        return model

    def fit(self, model: keras.Model, batches: Any, **arguments: Any) -> None:
        """Trains a model; at each epoch's end, for callbacks too, it has the state that training reached.

        Args:
            model: The model.
            batches: Of all epochs to come.
            **arguments: As for `keras.Model.fit`.
        """
        _make_optimizers_variables(model)
        self.trainer(model).fit(batches, **arguments)


def _make_optimizers_variables(model: keras.Model) -> None:
    """Makes the variables that TensorFlow would make inside the first step, which it would trace twice."""
    if keras.backend.backend() == "tensorflow" and not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


KERAS = Engine()
