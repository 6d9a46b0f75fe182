# SPDX-License-Identifier: Apache-2.0
"""The results table, as text for the terminal and as cells for the report."""

from collections.abc import Collection, Sequence

from mrd_jax.evaluation import results
from mrd_jax.evaluation.metrics import statistics

# Key in the metrics, heading of the column.
COLUMNS = (
    ("top1", "top-1"),
    ("top3", "top-3"),
    ("top5", "top-5"),
    ("mean_per_class", "mean per class"),
)


def percent(share: float) -> str:
    """Writes a share between 0 and 1 as per cent with one decimal."""
    return f"{100 * share:.1f}"


def interval(line: results.Result) -> str:
    """Writes the 95% interval of the top-1 accuracy in per cent; "" for an expected value."""
    if line.correct is None:
        return ""
    low, high = statistics.wilson_interval(int(line.correct.sum()), count=len(line.correct))
    return f"{percent(low)} to {percent(high)}"


def cells(line: results.Result) -> list[str]:
    """Writes one result as the cells of a row: its name, the columns, the interval."""
    return [line.name, *(percent(line.metrics[key]) for key, _ in COLUMNS), interval(line)]


def headings() -> list[str]:
    """The headings over `cells`."""
    return ["", *(heading for _, heading in COLUMNS), "95% of top-1"]


def format_table(rows: Sequence[results.Result]) -> str:
    """Writes results as an aligned text table in per cent, for the end of a run.

    Args:
      rows: lines of one held-out split, in the order to print.

    Returns:
      Several lines without a newline at the end.

    Raises:
      ValueError: where there is no row.
    """
    if not rows:
        raise ValueError("no results to print: expected at least one row")
    lines = [headings(), *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    measured = rows[0].metrics
    caption = f"zero-shot, % of {measured['count']} shapes in {measured['classes']} classes"
    return "\n".join([caption, *(_align(line, widths) for line in lines)])


def format_markdown(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Writes rows of cells as a table in Markdown.

    Args:
      rows: the headings, then the rest.
      left: columns that are aligned left; the others are aligned right.

    Returns:
      Several lines without a newline at the end.
    """
    rule = ["---" if column in left else "---:" for column in range(len(rows[0]))]
    lines = [rows[0], rule, *rows[1:]]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines
    )


def _align(line: list[str], widths: list[int]) -> str:
    """Puts the name left and the figures right, two spaces apart."""
    name, *figures = line
    padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
    return "  ".join([name.ljust(widths[0]), *padded]).rstrip()
