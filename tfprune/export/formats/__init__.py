"""The formats that a network is exported to, a class for each.

To add one, write a subclass of `Format` in a file of its own and list it in `FORMATS`. It is then known to
`--formats`, written and audited by `export_model`, and, with a `timing`, measured by the benchmark.
"""

from collections.abc import Sequence

from tfprune.export.formats.c_library import CLibrary
from tfprune.export.formats.format import Format
from tfprune.export.formats.keras_file import KerasFile
from tfprune.export.formats.saved_model import SavedModel
from tfprune.export.formats.sparse import Sparse
from tfprune.export.formats.tflite import TFLite
from tfprune.export.names import SPARSE_VALUES, SPARSE_WEIGHTS, Options

FORMATS: tuple[type[Format], ...] = (KerasFile, SavedModel, TFLite, Sparse, CLibrary)


def format_names() -> tuple[str, ...]:
    """Returns the names that `--formats` takes, in the order of `FORMATS`."""
    return tuple(kind.group for kind in FORMATS)


def default_names() -> tuple[str, ...]:
    """Returns the names of the formats that are written unless others are asked for."""
    return tuple(kind.group for kind in FORMATS if kind.by_default)


def all_files(options: Options | None = None) -> list[Format]:
    """Returns every file that an export can have, in the order of `FORMATS`.

    Args:
        options: What formats are told besides the network.
    """
    return [file for kind in FORMATS for file in kind.files(options or Options())]


def chosen_files(formats: Sequence[str], options: Options | None = None) -> list[Format]:
    """Returns the files of some formats, in the order of `FORMATS`.

    Args:
        formats: Some of `format_names()`.
        options: What formats are told besides the network.

    Raises:
        ValueError: An argument is none of these.
    """
    names, options = format_names(), options or Options()
    if not formats or set(formats) - set(names):
        raise ValueError(f"`formats` must name some of {names}. Received: formats={formats}")
    if options.sparse_weights not in SPARSE_WEIGHTS:
        raise ValueError(
            f"`sparse_weights` must be one of {SPARSE_WEIGHTS}."
            f" Received: sparse_weights={options.sparse_weights!r}"
        )
    if options.sparse_values not in SPARSE_VALUES:
        raise ValueError(
            f"`sparse_values` must be one of {SPARSE_VALUES}."
            f" Received: sparse_values={options.sparse_values!r}"
        )
    in_8_bits = options.sparse_values == "int8"
    if in_8_bits != (options.calibration is not None) or in_8_bits and options.sparse_weights != "int8":
        given = None if options.calibration is None else type(options.calibration).__name__
        raise ValueError(
            '`sparse_values="int8"` must be with `calibration` images and with `sparse_weights="int8"`, and'
            f" images only so. Received: sparse_values={options.sparse_values!r}, calibration={given},"
            f" sparse_weights={options.sparse_weights!r}"
        )
    return [file for file in all_files(options) if file.group in formats and file.is_asked()]
