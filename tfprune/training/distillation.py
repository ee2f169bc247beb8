"""Knowledge distillation: a network that learns from labels and from another network's outputs."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfprune.network.ending import activations


class DistillationLoss(keras.losses.Loss):
    """`T**2 * KL(softmax(teacher / T) || softmax(student / T))` of logits, the mean over the batch.

    `T**2` keeps the size of its gradient the same at every temperature (arXiv:1503.02531, section 2). Called
    with (teacher's logits, student's logits), both [batch, classes]; no gradient goes to the teacher's.

    Args:
        temperature: `T`, above 0.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__(name="distillation_loss", dtype="float32")
        self.temperature = temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns each example's loss: [batch]."""
        teacher = ops.stop_gradient(ops.log_softmax(y_true / self.temperature, axis=-1))
        student = ops.log_softmax(y_pred / self.temperature, axis=-1)
        return self.temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


class DistilledModel(keras.Model):
    """A classifier in training under a teacher: `(1 - weight) * loss + weight * DistillationLoss`.

    It has the student's layers, its optimizer and its metrics, and is for `fit` alone. In evaluation the
    loss is the student's own, and the teacher does not run. `save` writes the student. The teacher is in
    inference mode and does not learn. (`keras.distillation.Distiller` saves both networks, and runs the
    teacher in evaluation too, whose loss is the mixed one.)

    Args:
        student: A classifier with one output, logits or softmax, compiled.
        teacher: One of the same inputs and classes, without pruning wrappers; its `trainable` becomes False.
        weight: Of the teacher's part, in (0, 1].
        temperature: Above 0.

    Raises:
        ValueError: On a number out of range, or a teacher of other inputs or classes.

    Source: arXiv:1503.02531.
    """

    # For a trainer that computes the student elsewhere: `compute_loss` sees it through `y_pred` alone.
    loss_of_outputs = True

    def __init__(
        self, student: keras.Model, teacher: keras.Model, *, weight: float, temperature: float
    ) -> None:
        if not 0.0 < weight <= 1.0:
            raise ValueError(f"`weight` must be in (0, 1]. Received: weight={weight}")
        if not temperature > 0.0:
            raise ValueError(f"`temperature` must be above 0. Received: temperature={temperature}")
        for what, ours, theirs in (
            ("inputs", _shape(student, "input_shape"), _shape(teacher, "input_shape")),
            ("outputs", _shape(student, "output_shape"), _shape(teacher, "output_shape")),
        ):
            if ours != theirs and None not in (ours, theirs):
                raise ValueError(
                    f"`teacher` must have the student's {what}, {ours}. Received: a teacher of {theirs}"
                )
        super().__init__(name=student.name)
        self._student = student
        self.built = True
        teacher.trainable = False
        # In a function, which Keras does not look into: the teacher is no layer of this model.
        self._networks = lambda: (student, teacher)
        self._to_logits = tuple(map(_logits_of, self._networks()))
        self._weight, self._distillation_loss = weight, DistillationLoss(temperature)
        config = student.get_compile_config()
        self.compile(
            optimizer=student.optimizer,
            jit_compile=student.jit_compile,
            **{
                name: keras.saving.deserialize_keras_object(config[name])
                for name in ("loss", "metrics", "loss_weights")
            },
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the student's outputs."""
        return self._student(inputs, training=training)

    @property
    def student(self) -> keras.Model:
        """The classifier that learns."""
        return self._student

    @property
    def variables(self) -> list[keras.Variable]:
        """The student's variables; on JAX, where a step sees no others, the teacher's too."""
        own = super().variables
        # Keras asks before there are networks, too. PyTorch keeps variables by path, which both may share.
        if keras.backend.backend() != "jax" or "_networks" not in self.__dict__:
            return own
        return [*own, *self._networks()[1].variables]

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns the student's loss, in training mixed with the teacher's part."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        _, teacher = self._networks()
        student_logits, teacher_logits = self._to_logits
        taught = self._distillation_loss(teacher_logits(teacher(x, training=False)), student_logits(y_pred))
        return (1.0 - self._weight) * loss + self._weight * taught

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the student, with the optimizer."""
        self._networks()[0].save(*args, **kwargs)


def _shape(model: keras.Model, name: str) -> Any:
    """Returns a shape of a model; None if only its `call` knows it."""
    return getattr(model, name, None)


def _logits_of(model: keras.Model) -> Callable[[Any], Any]:
    """Returns a function from a model's outputs to logits: softmax of them gives the same probabilities."""
    if activations(model) != ["softmax"]:
        return lambda outputs: outputs
    return lambda outputs: ops.log(ops.maximum(outputs, keras.config.epsilon()))
