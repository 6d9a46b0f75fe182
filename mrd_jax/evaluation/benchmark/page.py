# SPDX-License-Identifier: Apache-2.0
"""Markdown page of a benchmark: the encoder among published results, and a section per test set."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrd_jax.evaluation import results, table, transfer
from mrd_jax.evaluation.benchmark import published

LEGEND = (
    "Zero-shot top-1 / top-3 / top-5 in %; `-` means not measured, or not given by the source. The "
    "first row was measured here. **No other row was: they were published by others** and are "
    "quoted from the source in the last column; for some methods, the paper and the README of the "
    "repository give different values. Published rows compare with the first row only on test sets "
    "that were prepared from the released test shapes and class features. Training sets: "
    + "; ".join(f"{key}: {name}" for key, name in published.TRAINING.items() if key != "-")
    + ". Results of the MRD paper are not included: no available source gives them with backbone "
    "and training set."
)
NOT_AVAILABLE = "-"


def markdown(benchmark: Mapping[str, Any]) -> str:
    """Formats the whole page.

    Args:
      benchmark: content of `results.json`.

    Returns:
      Markdown that ends with a newline.
    """
    parts = [
        "# Benchmarks",
        "Written by `python -m mrd_jax.main --mode eval --config configs/benchmarks.py`. "
        + _describe(benchmark),
        "## Published results",
        LEGEND,
        published_table(benchmark),
    ]
    for name, figures in benchmark["sets"].items():
        parts += [f"## {name}", *_section(figures)]
    if benchmark["skipped"]:
        reasons = (f"- {name}: {reason}" for name, reason in benchmark["skipped"].items())
        parts += ["## Skipped", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def published_table(benchmark: Mapping[str, Any]) -> str:
    """Formats this encoder's results above the published ones, which are sorted by training set.

    Args:
      benchmark: content of `results.json`.

    Returns:
      Markdown table with a column per test set of the field.
    """
    own = {figures["source"]: _student(figures) for figures in benchmark["sets"].values()}
    rows = [
        ["encoder", "training set", *published.BENCHMARKS.values(), "source"],
        [
            f"**{_name(benchmark)}**",
            "",
            *(_own_cell(own.get(name)) for name in published.BENCHMARKS),
            "measured here",
        ],
    ]
    order = list(published.TRAINING)
    for row in sorted(published.rows(), key=lambda row: order.index(row.training)):
        cells = [_published_cell(row.figures[name]) for name in published.BENCHMARKS]
        rows.append([row.method, row.training, *cells, row.source])
    return table.format_markdown(rows, left=(0, 1, len(rows[0]) - 1))


def _describe(benchmark: Mapping[str, Any]) -> str:
    """Describes the encoder, and the fingerprints and versions that the results depend on."""
    card, hashes = benchmark["encoder"], benchmark["hashes"]
    versions = ", ".join(f"{name} {version}" for name, version in benchmark["versions"].items())
    size = card["size"] or card["student"]["name"]
    return (
        f"The encoder is `{benchmark['config']['checkpoint']}`: {size}, "
        f"{card['parameters'] / 1e6:.1f} M parameters, {card['points']:,} points per point cloud, "
        f"{benchmark['config']['windows']} of these clouds per shape, teacher `{card['teacher']}`. "
        f"SHA-256 of its files {hashes['checkpoint'][:16]}, of the config {hashes['config'][:16]}, "
        f"of the code {hashes['code'][:16]}; seed {benchmark['seed']}; {versions}."
    )


def _section(figures: Mapping[str, Any]) -> list[str]:
    """Formats one test set: its size, the results table, and the transfer table."""
    counts = figures["counts"]
    rows = [results.from_dict(row) for row in figures["results"]]
    splits = ", ".join(f"{counts[name]:,} {name}" for name in ("train", "test") if name in counts)
    size = (
        f"Zero-shot, % of {counts['labelled']:,} shapes in {counts['classes']:,} classes. "
        f"Intervals: {table.describe_intervals(rows)}. Shapes: {splits}; {figures['points']:,} "
        f"points each; fingerprint {figures['data']}."
    )
    if figures["mirrored"]:
        size += (
            " Its point clouds were mirrored, because the encoder was trained on the mirror images."
        )
    frozen = {
        "zero_shot": _student(figures).metrics,
        "retrieval": _student(figures).retrieval,
    } | {name: figures[name] for name in transfer.FITTED if name in figures}
    rest = [["in %, except penalties and ranks", "student"], *transfer.cells(frozen).items()]
    return [
        size,
        table.format_markdown([table.headings(), *(table.cells(row) for row in rows)]),
        *filter(None, [transfer.describe_counts(frozen)]),
        table.format_markdown(rest),
    ]


def _student(figures: Mapping[str, Any]) -> results.Result:
    rows = (results.from_dict(row) for row in figures["results"])
    return next(row for row in rows if row.name == results.STUDENT)


def _name(benchmark: Mapping[str, Any]) -> str:
    """Returns the name of the encoder in the table of published results."""
    return benchmark["encoder"]["size"] or benchmark["config"]["checkpoint"]


def _own_cell(student: results.Result | None) -> str:
    if student is None:
        return NOT_AVAILABLE
    return " / ".join(table.percent(student.metrics[f"top{k}"]) for k in (1, 3, 5))


def _published_cell(triple: Sequence[float | None]) -> str:
    if all(value is None for value in triple):
        return NOT_AVAILABLE
    return " / ".join(NOT_AVAILABLE if value is None else f"{value:.1f}" for value in triple)
