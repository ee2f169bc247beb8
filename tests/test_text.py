"""Lengths of time in words."""

import pytest

from tfprune.text import duration


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
