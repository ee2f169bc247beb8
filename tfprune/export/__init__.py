"""Export: a stripped network as `.keras`, SavedModel and TFLite, with an audit of each."""

from tfprune.export.export import export_model
from tfprune.export.report import format_audit
from tfprune.export.rules import AuditError

__all__ = ["AuditError", "export_model", "format_audit"]
