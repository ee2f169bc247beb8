"""Export: a stripped network as `.keras`, SavedModel, TFLite and `model.tfprune`, with an audit of each."""

from tfprune.export.export import export_model
from tfprune.export.report import format_audit
from tfprune.export.rules import AuditError
from tfprune.export.sparse import export_sparse

__all__ = ["AuditError", "export_model", "export_sparse", "format_audit"]
