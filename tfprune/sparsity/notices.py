"""The warnings of `prune_low_magnitude`, each once for a whole model."""

import warnings
from dataclasses import dataclass, field


@dataclass
class Notices:
    """The notes of one call, on layers that are wrapped and on layers that stay dense.

    Attributes:
        zeros: Layer -> (weights that are zero and stay so, all weights of its kernels).
        frozen: The layers that are not trained.
        lora: The layers that stay dense because they have LoRA weights.
        dense: Layer -> the weights of an unknown class that stay dense, in words.
    """

    zeros: dict[str, tuple[int, int]] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    lora: list[str] = field(default_factory=list)
    dense: dict[str, str] = field(default_factory=dict)

    def count_zeros(self, layer: str, counts: tuple[int, int]) -> None:
        """Notes the zeros of a layer, if it has any."""
        if counts[0]:
            self.zeros[layer] = counts

    def give(self, tell_zeros: bool, tell_frozen: bool) -> None:
        """Warns of what was noted."""
        if self.zeros and tell_zeros:
            zeros, weights = map(sum, zip(*self.zeros.values(), strict=True))
            _warn(
                f"{zeros:,} of {weights:,} weights ({zeros / weights:.4g}) of {_names(self.zeros)} are zero "
                "already, and stay so. `keep_zeros=False` lets them train; True is the same without a "
                "warning."
            )
        if self.frozen and tell_frozen:
            _warn(
                f"Pruned, but not trained (`trainable=False`): {_names(self.frozen)}. No training makes up "
                "for what they lose. `prune_frozen=False` leaves them out; True is the same without a "
                "warning."
            )
        if self.lora:
            _warn(
                f"Left dense, because LoRA adds a dense product to their kernels: {_names(self.lora)}. Save "
                "and load the model, which merges the product, and wrap it then; or enable LoRA after "
                "`strip_pruning`."
            )
        for layer, weights in self.dense.items():
            _warn(
                f"Layer {layer!r} has weights that stay dense, of a class that says nothing of them, "
                f"{weights}. Give the class a method `get_prunable_weights` that returns those to prune, or "
                "none."
            )


def _names(layers: "list[str] | dict") -> str:
    names = list(layers)
    shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"layer {shown}" if len(names) == 1 else f"layers {shown}"


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)
