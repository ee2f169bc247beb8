"""Lengths of time in words, tables, and text that commands nothing."""

import pytest

from tfprune.text import csv_cell, duration, numbered, printable, text_table


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 1 µs, 数", "größe 1 µs, 数"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\nb\rc\td\0", r"a\nb\rc\td\x00"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202egnp.exe\u2066\u200f", r"\u202egnp.exe\u2066\u200f"),
        ("\udcff\u2028", r"\udcff\u2028"),
    ],
)
def test_text_of_others_is_one_line_without_commands(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_spaces_that_do_not_break_are_seen():
    assert printable("5\u00a0%, 1\u202f000") == "5\u00a0%, 1\u202f000"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (-3.5, -3.5),
        (-1, -1),
        (None, None),
        ("a=b", "a=b"),
        ("", ""),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", r"'\t=1"),
        ("\r\n=1", r"'\r\n=1"),
        ("＝1", "'＝1"),
        ("\x1b[2J", r"\x1b[2J"),
    ],
)
def test_a_cell_is_a_number_or_text_that_computes_nothing(value, cell):
    assert csv_cell(value) == cell


def test_a_name_is_numbered_where_it_is_taken():
    assert numbered("a", []) == "a"
    assert numbered("a", {"a": 0, "a_3": 0}) == "a_2"
    assert numbered("a", ("a", "a_2"), second=1) == "a_1"
