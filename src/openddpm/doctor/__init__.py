"""Will a planned run work? Its plan, its folders, its machine, and one batch memorized."""

from openddpm.doctor.examination import Examination, examine

__all__ = ["Examination", "examine"]
