"""report.html: one run on one self-contained page. Imports no torch."""

from openddpm.report.build import write_report

__all__ = ["write_report"]
