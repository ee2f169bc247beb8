"""AutoAugment's fourteen operations on one uint8 RGB image, by name and magnitude.

Names and magnitudes are torchvision's, results those of its Pillow path (interpolation nearest, fill black):

| operation | magnitude |
|---|---|
| ShearX, ShearY | slope |
| TranslateX, TranslateY | pixels, truncated to a whole number |
| Rotate | degrees, counter-clockwise |
| Brightness, Color, Contrast, Sharpness | the factor minus 1: 0 leaves the image as it is |
| Posterize | bits to keep |
| Solarize | threshold: values that are not below it are inverted |
| AutoContrast, Equalize, Invert | none: pass 0 |
"""

from collections.abc import Iterable

import numpy as np

from tfprune.data import enhance, geometry, lookup_tables

# Operations on values alone. A table may depend on the image as the chain before it leaves it.
_TABLES = {
    "Brightness": lambda chain, m: lookup_tables.blend_table(0, 1.0 + m),
    "Contrast": lambda chain, m: lookup_tables.blend_table(enhance.mean_grey(chain.image()), 1.0 + m),
    "Posterize": lambda chain, m: lookup_tables.posterize_table(int(m)),
    "Solarize": lambda chain, m: lookup_tables.solarize_table(m),
    "AutoContrast": lambda chain, m: lookup_tables.autocontrast_table(*chain.extremes()),
    "Equalize": lambda chain, m: lookup_tables.equalize_table(chain.histogram()),
    "Invert": lambda chain, m: lookup_tables.invert_table(),
}

# Operations that look at a pixel's place or at several values.
_FUNCTIONS = {
    "ShearX": geometry.shear_x,
    "ShearY": geometry.shear_y,
    "TranslateX": lambda image, m: geometry.translate_x(image, int(m)),
    "TranslateY": lambda image, m: geometry.translate_y(image, int(m)),
    "Rotate": geometry.rotate,
    "Color": lambda image, m: enhance.color(image, 1.0 + m),
    "Sharpness": lambda image, m: enhance.sharpness(image, 1.0 + m),
}

OPERATIONS = (*_FUNCTIONS, *_TABLES)


def apply_operations(image: np.ndarray, operations: Iterable[tuple[str, float]]) -> np.ndarray:
    """Applies operations one after another.

    Neighbours that only map values are folded into one lookup table, with the result of applying
    them singly.

    Example:

    ```python
    apply_operations(image, [("Rotate", -10.0), ("Equalize", 0), ("Solarize", 128.0)])
    ```

    Args:
        image: uint8 array of shape [height, width, 3]. It is not changed.
        operations: Pairs of a name of `OPERATIONS` and a magnitude (see the module's table).

    Returns:
        uint8 array of the image's shape; the image itself where there is nothing to do.

    Raises:
        ValueError: The image is not such an array, or an operation is unknown.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            "`image` must be a uint8 array of shape [height, width, 3]. "
            f"Received: dtype={image.dtype}, shape={image.shape}"
        )
    chain = lookup_tables.TableChain(image)
    for name, magnitude in operations:
        if name in _TABLES:
            chain.append(_TABLES[name](chain, magnitude))
        elif name in _FUNCTIONS:
            chain = lookup_tables.TableChain(_FUNCTIONS[name](chain.image(), magnitude))
        else:
            raise ValueError(f"Unknown operation {name!r}. The operations are: {', '.join(OPERATIONS)}")
    return chain.image()
