"""Inspection of a data set: what training would do with its images. Imports no torch."""

from openddpm.inspection.page import write_page
from openddpm.inspection.survey import Inspection, inspect_images

__all__ = ["Inspection", "inspect_images", "write_page"]
