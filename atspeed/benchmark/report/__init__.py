"""A benchmark"s tables, figures and page."""

from atspeed.benchmark.report.tables import report, tables_of

__all__ = ["report", "tables_of"]
