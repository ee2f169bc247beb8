"""Puts run folders beside the paper's figures: tables, CSV, a picture and a page.

Rows (a round beside the paper's) become words, columns and views. Reads the files of run folders alone:
imports neither TensorFlow nor Keras.
"""

from tfprune.compare.page.page import write_page
from tfprune.compare.report import Comparison, write_comparison
from tfprune.compare.rows import Experiment, Row, compare

__all__ = ["Comparison", "Experiment", "Row", "compare", "write_comparison", "write_page"]
