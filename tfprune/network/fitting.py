"""Keras's own loops, `fit`, `evaluate` and `predict`, around steps that are not Keras's."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import keras

# What reads or writes a model's variables, of its methods. (Those of its class cannot be told.)
_READERS = (
    "export",
    "get_state_tree",
    "get_weights",
    "load_weights",
    "save",
    "save_weights",
    "set_state_tree",
    "set_weights",
)


class Steps(Protocol):
    """Steps in the place of Keras's. A batch is what Keras's own get: (x, y, sample_weight) or less."""

    def train(self, batch: Any) -> dict[str, Any]:
        """Does a training step; returns the loss and the metrics since the epoch's start."""

    def test(self, batch: Any) -> dict[str, Any]:
        """Evaluates a batch; returns the loss and the metrics since the evaluation's start."""

    def predict(self, batch: Any) -> Any:
        """Returns the outputs of a batch as a tensor."""

    def synchronize(self) -> None:
        """Brings the model's variables up to date; after it, they may be changed."""


@contextlib.contextmanager
def replaced_steps(model: keras.Model, steps: Steps, *, lag: bool = False) -> Iterator[None]:
    """Lets Keras's `fit`, `evaluate` and `predict` of a model do other steps, inside the block.

    The loops, the data, the callbacks and the logs are Keras's. `steps.synchronize` is called before a method
    of the model that reads its weights, or `bring_up_to_date`; on JAX before each use of `Callback.model`.

    Args:
        model: The compiled model.
        steps: The steps.
        lag: Whether the variables stay behind, whatever Keras says, which on JAX brings them up to date after
            each single step.
    """
    names = ("train_function", "test_function", "predict_function")
    functions = [getattr(model, name, None) for name in names]
    hooks = {"jax_state_sync": (lambda: None) if lag else steps.synchronize}
    hooks |= {name: _after(steps, model, name) for name in _READERS if hasattr(model, name)}
    on_jax = keras.backend.backend() == "jax"
    if on_jax:
        # The variables keep their values, and the state that goes through the steps is empty.
        hooks["_get_jax_state"] = _no_state
    # Straight in the dictionary of the instance, where Keras's tracking of attributes does not see it.
    vars(model).update(hooks)
    try:
        for name, step in zip(names, (steps.train, steps.test, steps.predict), strict=True):
            setattr(model, name, _function(model, step, on_jax))
        yield
    finally:
        for name, function in zip(names, functions, strict=True):
            setattr(model, name, function)
        for name, hook in hooks.items():
            if vars(model).get(name) is hook:
                del vars(model)[name]
        if on_jax:
            model._jax_state, model._jax_state_synced = None, True


def bring_up_to_date(model: keras.Model) -> None:
    """Brings a model's variables up to date, where the steps of a fit keep newer values elsewhere."""
    synchronize = getattr(model, "jax_state_sync", None)
    if synchronize is not None:
        synchronize()


def add_loss(model: keras.Model, loss: Any, examples: Any) -> None:
    """Adds a batch's loss to the mean that the model shows as `loss`."""
    model._loss_tracker.update_state(loss, sample_weight=examples)


def compiled_parts(model: keras.Model) -> tuple[Any, ...]:
    """Returns the objects that `compile` made: others after each call of it."""
    return (model._loss_tracker, model._compile_loss, model._compile_metrics)


def _function(model: keras.Model, step: Callable[[Any], Any], on_jax: bool) -> Callable[..., Any]:
    """Returns a function that takes what Keras's of the same name takes on the backend."""

    def run(batches: Iterable[Any]) -> Any:
        made = [
            step(_without_optionals(batch))
            for batch in itertools.islice(batches, int(getattr(model, "steps_per_execution", 1) or 1))
        ]
        if not made:
            raise StopIteration
        if isinstance(made[-1], dict) or len(made) == 1:  # Logs count since the epoch's start.
            return made[-1]
        return keras.ops.concatenate(made)

    return (lambda state, batches: (run(batches), state)) if on_jax else run


def _without_optionals(batch: Any) -> Any:
    """Returns a batch with None for what `tf.data` has in the place of None."""
    if keras.backend.backend() != "tensorflow":
        return batch
    import tensorflow as tf

    return keras.tree.map_structure(
        lambda part: None if isinstance(part, tf.experimental.Optional) else part, batch
    )


def _no_state(*, purge_model_variables: bool = False, **kinds: bool) -> tuple[None, ...]:
    return (None,) * sum(kinds.values())


def _after(steps: Steps, model: keras.Model, name: str) -> Callable[..., Any]:
    """Returns a method of a model that synchronizes first."""
    method = getattr(model, name)

    @functools.wraps(method)
    def synchronized(*args: Any, **kwargs: Any) -> Any:
        steps.synchronize()
        return method(*args, **kwargs)

    return synchronized
