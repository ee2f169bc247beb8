"""AutoAugment (arXiv:1805.09501) on uint8 images, as torchvision does it with Pillow."""

import numpy as np

from tfprune.data import policies
from tfprune.data.operations import apply_operations

DRAWS = 5


class AutoAugment:
    """Applies one random sub-policy of a policy to an image.

    A sub-policy is drawn uniformly; each of its two operations is applied with its own probability,
    and where it is signed, with a negated magnitude half of the time. Operations, probabilities,
    magnitudes and black fill are torchvision's.

    Example:

    ```python
    augment = AutoAugment("cifar10")
    augmented = augment(image, np.random.default_rng(0))
    ```

    Args:
        policy: `"cifar10"`, `"imagenet"` or `"svhn"`.

    Raises:
        ValueError: Unknown policy.
    """

    def __init__(self, policy: str) -> None:
        self._sub_policies = policies.sub_policies(policy)

    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Augments one image with fresh draws: `apply(image, generator.random(DRAWS))`."""
        return self.apply(image, generator.random(DRAWS))

    def apply(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Augments one image with given draws.

        Args:
            image: uint8 array of shape [height, width, 3]. It is not changed.
            draws: `DRAWS` numbers in [0, 1): which sub-policy; whether the first operation is applied, and
                the second; the sign of the first, and of the second (below a half is negative).

        Returns:
            uint8 array of the image's shape; the image itself where no operation is applied.

        Raises:
            ValueError: The image is not such an array.
        """
        return apply_operations(image, self.operations(draws, *image.shape[:2]))

    def operations(self, draws: np.ndarray, height: int, width: int) -> list[tuple[str, float]]:
        """Returns the operations and magnitudes that `apply` would apply to an image of this size."""
        which, *chances = draws[:3]
        chosen = []
        for operation, chance, sign in zip(
            self._sub_policies[int(which * len(self._sub_policies))], chances, draws[3:], strict=True
        ):
            # Not `<`: torchvision applies an operation of probability 0 where the draw is exactly 0.
            if chance > operation.probability:
                continue
            magnitude = 0.0
            if operation.level is not None:
                magnitude = policies.magnitudes(operation.name, height, width)[operation.level]
            if operation.signed and sign < 0.5:
                magnitude = -magnitude
            chosen.append((operation.name, magnitude))
        return chosen
