"""`PruneLowMagnitude`: a layer that runs another with some of its weights masked out."""

from typing import Any

import keras
from keras import ops

from tfprune.sparsity import masks as mask_rules
from tfprune.sparsity import registry, scores
from tfprune.sparsity.schedules import ConstantSparsity

# tfmot's default: half the weights, from the start.
DEFAULT_SCHEDULE = ConstantSparsity(0.5, begin_step=0, frequency=100)


@keras.saving.register_keras_serializable("tfprune")
class PruneLowMagnitude(keras.layers.Wrapper):
    """Runs `layer` with the masked values of its prunable variables.

    Owns one boolean mask (non-trainable, of the variable's shape, True where the weight stays) for each
    prunable variable. In the forward pass the inner layer sees `where(mask, weight, 0)`, so that a
    removed weight's gradient is zero; where the masks change, the removed weights and the optimizer's
    slots for them become exactly zero, and so stay so.

    Unlike `tfmot`'s wrapper, whose dense gradients move removed weights and let them return, removed
    weights never regrow. The masks change in `UpdatePruningStep` (by the schedule) and in `prune_to`.

    Args:
        layer: The layer to prune. Its variables are used as they are, not copied.
        pruning_schedule: A `PruningSchedule`, or tfmot's, or None: the masks stay as they are until
            `prune_to`. Default: `ConstantSparsity(0.5, begin_step=0, frequency=100)`, as tfmot's.
        scope: "layer": each prunable variable reaches the schedule's sparsity by itself. "global": all
            wrappers of the model that have the same schedule reach it together.
        score: Name of the score that ranks the weights; "magnitude".
        **kwargs: As for every Keras layer.

    Raises:
        ValueError: On an unknown scope or score, or a schedule that cannot be called.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        pruning_schedule: Any = DEFAULT_SCHEDULE,
        *,
        scope: str = "layer",
        score: str = "magnitude",
        **kwargs: Any,
    ) -> None:
        if isinstance(layer, PruneLowMagnitude):
            raise ValueError(f"The layer is wrapped already. Received: layer={layer.name!r}")
        kwargs.setdefault("name", f"prune_low_magnitude_{layer.name}")
        # The wrapper passes values through; the inner layer casts them by its own policy.
        kwargs.setdefault("dtype", layer.variable_dtype)
        super().__init__(layer, autocast=False, **kwargs)
        if pruning_schedule is not None and not callable(pruning_schedule):
            raise ValueError(
                "`pruning_schedule` must be a schedule, callable with a step, or None. "
                f"Received: pruning_schedule={pruning_schedule!r}"
            )
        scores.get(score)
        self.pruning_schedule = pruning_schedule
        self.scope = mask_rules.check_scope(scope)
        self.score = score
        self.supports_masking = layer.supports_masking
        self.masks: list[keras.Variable] = []
        # Set by `UpdatePruningStep` while it watches over a fit.
        self.is_updated = False
        if layer.built:
            self.build()

    @property
    def prunable_variables(self) -> list[keras.Variable]:
        """The inner layer's prunable variables, in the order of `masks`."""
        return registry.prunable_variables(self.layer)

    def build(self, input_shape: Any = None) -> None:
        """Builds the inner layer, if need be, and the masks: all ones."""
        if not self.layer.built:
            super().build(input_shape)
        if self.masks:
            return
        self.pruning_step = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="pruning_step"
        )
        self.masks = [
            self.add_weight(
                shape=variable.shape,
                dtype="bool",
                initializer="ones",
                trainable=False,
                name=f"{variable.name}_mask",
            )
            for variable in self.prunable_variables
        ]
        self.built = True

    def call(self, inputs: Any, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Calls the inner layer on the masked weights."""
        if training and self.pruning_schedule is not None and not self.is_updated:
            raise RuntimeError(
                f"Layer {self.name!r} is trained without a pruning callback, so that its schedule "
                f"{self.pruning_schedule!r} would never act. Add "
                "`tfprune.sparsity.UpdatePruningStep()` to the callbacks of `fit`."
            )
        mask_of = {id(v): m for v, m in zip(self.prunable_variables, self.masks, strict=True)}
        state = []
        # Every variable is mapped, because this scope hides the one around it (JAX trains inside one).
        for variable in self.layer.variables:
            value = variable.value
            if id(variable) in mask_of:
                value = ops.where(mask_of[id(variable)].value, value, ops.zeros_like(value))
            state.append((variable, value))
        with keras.StatelessScope(state_mapping=state, collect_losses=True) as scope:
            outputs = self.layer(inputs, *args, **kwargs)
        for loss in scope.losses:
            self.add_loss(loss)
        for variable, value in state:
            new_value = scope.get_current_value(variable)
            if new_value is not None and not variable.trainable and new_value is not value:
                variable.assign(new_value)
        return outputs

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """The inner layer's."""
        kwargs.pop("training", None)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """The inner layer's."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The inner layer's."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_build_config(self) -> dict[str, Any]:
        """What rebuilds the inner layer, whatever the number of its inputs."""
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Rebuilds the inner layer, then the masks."""
        if not self.layer.built and config["layer"]:
            self.layer.build_from_config(config["layer"])
        self.build()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pruning_schedule": keras.saving.serialize_keras_object(self.pruning_schedule),
            "scope": self.scope,
            "score": self.score,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PruneLowMagnitude":
        config = dict(config)
        for name in ("layer", "pruning_schedule"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
        return cls(config.pop("layer"), config.pop("pruning_schedule"), **config)
