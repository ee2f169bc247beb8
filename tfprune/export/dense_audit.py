"""Checks the audit of the dense network, with whose files a pruned network's are compared."""

import dataclasses
from typing import Any

from tfprune.records import KINDS, Kind, values_of
from tfprune.settings import AT_LEAST_1, FRACTION, measured


@dataclasses.dataclass(frozen=True)
class _Audit:
    """The part of an audit that the comparison needs."""

    parameters: int = measured(AT_LEAST_1)
    sparsity: float = measured(FRACTION)
    artifacts: dict[str, dict[str, Any]] = measured()


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """The part of an artifact's entry that the comparison needs, in bytes."""

    bytes: int = measured(AT_LEAST_1)
    gzip_bytes: int = measured(AT_LEAST_1)


_KINDS = {
    **KINDS,
    dict[str, dict[str, Any]]: Kind(
        "an object of objects",
        lambda value: isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()),
        dict,
    ),
}


def check_dense_audit(audit: Any) -> None:
    """Checks that a parsed `export.json` is the audit of an export.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(audit, dict):
        raise ValueError(f"`dense_audit` must be a JSON object. Received: dense_audit={audit!r}")
    for entry in values_of(_Audit, audit, kinds=_KINDS)["artifacts"].values():
        values_of(_Sizes, entry)
