"""Aligned text tables."""

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Aligns cells in columns: the first `left` ones to the left, the others to the right.

    Args:
        header: Titles.
        rows: Cells, as many as titles.
        left: How many columns hold text.

    Returns:
        Lines without trailing blanks: the titles, a rule, the rows.
    """
    widths = [max(map(len, cells)) for cells in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *map(line, rows)]
