"""tfmot's names and modules, for code whose imports alone are changed.

`tensorflow_model_optimization` becomes `tfprune.tfmot`:

```python
import tfprune.tfmot as tfmot
from tfprune.tfmot.sparsity import keras as sparsity
from tfprune.tfmot.python.core.sparsity.keras import pruning_wrapper
```

Everything here is what `tfprune.sparsity` has; new code imports that.
"""

from typing import Any

from tfprune import __version__
from tfprune.tfmot import sparsity

__all__ = ["__version__", "sparsity"]

_NOT_PORTED = ("clustering", "experimental", "quantization")


def __getattr__(name: str) -> Any:
    if name in _NOT_PORTED:
        raise AttributeError(
            f"tfprune has the pruning of tfmot, `sparsity`, and not its `{name}`: docs/coming_from_tfmot.md "
            "says what there is instead."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
