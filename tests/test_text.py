"""Lengths of time in words, and tables."""

import pytest

from tfprune.text import duration, text_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5900, "98 min"),
        (12000, "3 h 20 min"),
        (190800, "2 d 5 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_table_is_aligned():
    assert text_table(("a", "bb"), [("xyz", "1"), ("", "22")]) == ["a    bb", "---  --", "xyz   1", "     22"]
