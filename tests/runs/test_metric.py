"""A metric: its values as they are shown, and which of two is worse."""

import pytest

from tfprune.runs.metric import ACCURACY, Metric, significant

pytestmark = pytest.mark.one_backend

ERROR = Metric("mean_absolute_error", in_percent=False, higher_is_better=False)


def test_a_share_is_shown_in_percent_and_another_figure_as_it_is():
    assert ACCURACY.text(93.1) == "93.10 %"
    assert ERROR.text(0.0312) == "0.03120"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.000"),
        (-0.5, "-0.5000"),
        (9.99996, "10.00"),
        (99_999.6, "100,000"),
        (1234.5678, "1,235"),
        (123_456_789.0, "123,456,789"),
        (0.000312, "0.0003120"),
        (3.12e-7, "3.120e-07"),
        (3.12e20, "3.120e+20"),
    ],
)
def test_figures_have_four_digits_that_count(value, text):
    assert significant(value) == text


def test_a_spread_has_fewer_digits():
    assert significant(0.00028123, 2) == "0.00028"
    assert significant(0.0006, 3) == "0.000600"


def test_a_loss_is_positive_where_the_figure_is_worse():
    assert ACCURACY.loss(90.0, 88.5) == 1.5
    assert ACCURACY.loss(88.5, 90.0) == -1.5
    assert ERROR.loss(0.25, 0.5) == 0.25
    assert ERROR.loss(0.5, 0.25) == -0.25
