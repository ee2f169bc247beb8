"""Puts run folders beside the paper's figures: tables, CSV, a picture and a page.

Rows (a round beside the paper's) become words, columns and views. Reads the files of run folders alone:
imports neither TensorFlow nor Keras.
"""

from tfprune.compare.page.page import write_page as write_page
from tfprune.compare.report import Comparison as Comparison
from tfprune.compare.report import write_comparison as write_comparison
from tfprune.compare.rows import Experiment as Experiment
from tfprune.compare.rows import Row as Row
from tfprune.compare.rows import compare as compare
