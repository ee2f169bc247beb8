"""What is no audit of a dense network is refused, with the value and the rule."""

import json

import pytest

from tfprune.bin.export import read_audit
from tfprune.errors import FileError
from tfprune.export.dense_audit import check_dense_audit

pytestmark = pytest.mark.one_backend

ENTRY = {"bytes": 4000, "gzip_bytes": 900}
AUDIT = {"parameters": 1000, "sparsity": 0.0, "artifacts": {"model.keras": ENTRY}}


def test_an_audit_passes(tmp_path):
    check_dense_audit(AUDIT)
    (tmp_path / "export.json").write_text(json.dumps(AUDIT))
    assert read_audit(tmp_path) == AUDIT
    assert read_audit(tmp_path / "nowhere") is read_audit(None) is None


@pytest.mark.parametrize(
    ("audit", "reason"),
    [
        ([], "must be a JSON object"),
        (None, "must be a JSON object"),
        ({}, "`parameters` is missing"),
        ({**AUDIT, "parameters": 0}, "`parameters` must be at least 1"),
        ({**AUDIT, "parameters": True}, "`parameters` must be a whole number"),
        ({**AUDIT, "parameters": "7"}, "`parameters` must be a whole number"),
        ({**AUDIT, "sparsity": None}, "`sparsity` must be a number"),
        ({**AUDIT, "sparsity": 1.5}, r"`sparsity` must be in \[0, 1\]"),
        ({**AUDIT, "artifacts": []}, "`artifacts` must be an object of objects"),
        ({**AUDIT, "artifacts": {"model.keras": 5}}, "`artifacts` must be an object of objects"),
        ({**AUDIT, "artifacts": {"model.keras": {}}}, "`bytes` is missing"),
        ({**AUDIT, "artifacts": {"model.keras": {**ENTRY, "bytes": 0}}}, "`bytes` must be at least 1"),
        (
            {**AUDIT, "artifacts": {"model.keras": {**ENTRY, "gzip_bytes": 0}}},
            "`gzip_bytes` must be at least",
        ),
        ({**AUDIT, "artifacts": {"model.keras": {**ENTRY, "bytes": 1.5}}}, "`bytes` must be a whole number"),
    ],
)
def test_what_is_none_is_refused(tmp_path, audit, reason):
    with pytest.raises(ValueError, match=reason):
        check_dense_audit(audit)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(audit))
    with pytest.raises(
        FileError, match=f"{path}: not a readable audit of an export: .*{reason}.*; export that"
    ):
        read_audit(tmp_path)
