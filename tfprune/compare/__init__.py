"""Puts run folders beside the paper's figures: tables, CSV, a plot and a page.

Reads the files of run folders alone: it imports neither TensorFlow nor Keras.
"""

from tfprune.compare.page import write_page as write_page
from tfprune.compare.report import Comparison as Comparison
from tfprune.compare.report import write_comparison as write_comparison
from tfprune.compare.results import Run as Run
from tfprune.compare.results import read_runs as read_runs
from tfprune.compare.table import ComparisonRow as ComparisonRow
from tfprune.compare.table import compare as compare
