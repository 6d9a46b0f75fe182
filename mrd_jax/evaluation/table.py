# SPDX-License-Identifier: Apache-2.0
"""Results table, as text for the terminal, as cells for the report and as Markdown."""

from collections.abc import Collection, Sequence

from mrd_jax.evaluation.metrics import statistics
from mrd_jax.evaluation.results import Result

# Key in `Result.metrics`, heading of the column.
COLUMNS = (
    ("top1", "top-1"),
    ("top3", "top-3"),
    ("top5", "top-5"),
    ("mean_per_class", "mean per class"),
)


def percent(fraction: float) -> str:
    """Formats a fraction between 0 and 1 in per cent with one decimal."""
    return f"{100 * fraction:.1f}"


def interval(result: Result) -> str:
    """Formats the 95% interval of the top-1 accuracy in per cent; "" for an expected value."""
    if result.correct is None:
        return ""
    if "top1_low" in result.metrics:
        return between(result.metrics["top1_low"], result.metrics["top1_high"])
    # Results of earlier versions have no intervals.
    found = statistics.accuracy_interval(result.correct, groups=None)
    return between(found.low, found.high)


def between(low: float, high: float) -> str:
    """Formats an interval of fractions between 0 and 1 in per cent."""
    return f"{percent(low)} to {percent(high)}"


def describe_intervals(results: Sequence[Result]) -> str:
    """Describes how the intervals of a table were computed, such as "bootstrap over 172 groups".

    Args:
      results: rows of the table, on one held-out split.
    """
    groups = {int(row.metrics.get("groups", 0)) for row in results if row.correct is not None}
    names = [f"bootstrap over {count} groups" if count else "Wilson" for count in sorted(groups)]
    return " or ".join(names) or "none"


def headings() -> list[str]:
    """Returns the column headings over `cells`."""
    return ["", *(heading for _, heading in COLUMNS), "95% of top-1"]


def cells(result: Result) -> list[str]:
    """Formats one result as the cells of a row: its name, accuracies in per cent, the interval."""
    return [result.name, *(percent(result.metrics[key]) for key, _ in COLUMNS), interval(result)]


def format_table(results: Sequence[Result]) -> str:
    """Formats results as an aligned text table in per cent.

    Args:
      results: results on one held-out split, in the order of the rows.

    Returns:
      Lines of text, without a newline at the end.

    Raises:
      ValueError: there are no results.
    """
    if not results:
        raise ValueError("no results to print: expected at least one row")
    rows = [headings(), *(cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    metrics = results[0].metrics
    caption = (
        f"zero-shot, % of {metrics['count']} shapes in {metrics['classes']} classes; "
        f"intervals: {describe_intervals(results)}"
    )
    return "\n".join([caption, *(_align(row, widths) for row in rows)])


def format_markdown(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Formats rows of cells as a Markdown table.

    Args:
      rows: headings first, then the other rows.
      left: columns to align left; the others are aligned right.

    Returns:
      Lines of text, without a newline at the end.
    """
    rule = ["---" if column in left else "---:" for column in range(len(rows[0]))]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"
        for row in [rows[0], rule, *rows[1:]]
    )


def _align(row: list[str], widths: list[int]) -> str:
    """Aligns the first cell left and the others right, two spaces apart."""
    name, *figures = row
    padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
    return "  ".join([name.ljust(widths[0]), *padded]).rstrip()
