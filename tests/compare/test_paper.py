import collections

import pytest

from tfprune.compare.paper import (
    PAPER_ROWS,
    PAPER_SECTIONS,
    equal_share_sparsities,
    match_paper_row,
    paper_rows,
)


def test_equal_share_is_the_published_example():
    levels = equal_share_sparsities(0.0, 0.95, 6)
    assert [round(level, 3) for level in levels] == [0.393, 0.632, 0.776, 0.864, 0.918, 0.95]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((0.5, 0.4, 3), "target=0.4"), ((0.0, 1.0, 3), "target=1.0"), ((0.0, 0.5, 0), "rounds=0")],
)
def test_equal_share_refuses_what_is_out_of_range(arguments, named):
    with pytest.raises(ValueError, match=named):
        equal_share_sparsities(*arguments)


def test_published_levels_follow_the_rule_within_what_was_cut():
    rows = [row for row in PAPER_ROWS if row.regime == "iterative"]
    assert len(rows) == 4 * 6
    assert max(abs(row.sparsity - row.sparsity_asked) for row in rows) < 0.0072
    assert any(row.sparsity != row.sparsity_asked for row in rows)


def test_every_section_is_there_with_its_rounds():
    rounds = collections.Counter((row.section, row.dataset) for row in PAPER_ROWS)
    assert rounds == {
        ("baseline", "cifar10"): 1,
        ("baseline", "cifar100"): 1,
        ("4.3.1", "cifar10"): 1,
        ("4.3.2", "cifar10"): 1,
        ("4.3.3", "cifar10"): 6,
        ("4.3.4", "cifar100"): 1,
        ("4.3.5", "cifar100"): 6,
        ("4.3.6", "cifar100"): 6,
        ("4.3.7", "cifar100"): 6,
        ("4.3.8", "cifar100"): 1,
    }
    assert sorted(PAPER_SECTIONS[1:]) == list(PAPER_SECTIONS[1:])


def test_drops_are_from_the_papers_own_baseline():
    last = {row.section: row.drop_percent_points for row in PAPER_ROWS}
    assert last == {
        "baseline": 0,
        "4.3.1": 96 - 89,
        "4.3.2": 0,
        "4.3.3": 96 - 94.5,
        "4.3.4": 84 - 80,
        "4.3.5": 84 - 81,
        "4.3.6": 84 - 82,
        "4.3.7": 84 - 67,
        "4.3.8": 84 - 77,
    }


def test_chance_is_a_tenth_or_a_hundredth_and_flagged():
    chance = {row.section: row for row in PAPER_ROWS if row.after_pruning_is_chance}
    after = {section: row.accuracy_after_pruning_percent for section, row in chance.items()}
    assert after == {"4.3.1": 10, "4.3.2": 10, "4.3.4": 1}


def test_where_a_section_starts():
    row = paper_rows("4.3.6", "cifar100")[0]
    assert (row.starts_from, row.starts_from_round) == ("4.3.5", 3)
    start = paper_rows("4.3.5", "cifar100")[2]
    assert row.sparsity_asked > start.sparsity_asked


def test_rows_match_themselves_and_no_neighbour():
    for row in PAPER_ROWS:
        assert match_paper_row(row.section, row.dataset, row.regime, row.sparsity_asked) is row


def test_three_rounds_meet_every_other_of_six():
    levels = equal_share_sparsities(0.0, 0.95, 3)
    rows = [match_paper_row("4.3.5", "cifar100", "iterative", level) for level in levels]
    assert [row.round for row in rows] == [2, 4, 6]


@pytest.mark.parametrize(
    "arguments",
    [
        ("4.3.2", "digits", "one_shot", 0.95),
        ("4.3.2", "cifar10", "gradual", 0.95),
        ("4.3.2", "cifar10", "one_shot", 0.9),
        ("", "cifar10", "one_shot", 0.95),
    ],
)
def test_no_row_for_another_dataset_regime_level_or_section(arguments):
    assert match_paper_row(*arguments) is None
