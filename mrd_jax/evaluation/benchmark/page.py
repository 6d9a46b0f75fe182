# SPDX-License-Identifier: Apache-2.0
"""The page of a suite in Markdown: the field's table with our row on top, and a table per set."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrd_jax.evaluation import results, table, transfer
from mrd_jax.evaluation.benchmark import published

LEGEND = (
    "Zero-shot top-1 / top-3 / top-5 in %; `-` stands for what was not measured, or what the "
    "source does not give. The first row was measured here. **No other row was: they were "
    "published by others** and are quoted from the source beside them; of one method, the rows of "
    "a paper and of a README differ. They compare with the first where its set was prepared from "
    "the released test shapes and class features. Training sets: "
    + "; ".join(f"{key}: {name}" for key, name in published.TRAINING.items() if key != "-")
    + ". MRD's own figures are left out: no source at hand gives them with backbone and training "
    "set."
)
NOTHING = "-"


def markdown(found: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
      found: what `results.json` holds.

    Returns:
      Markdown that ends with a newline.
    """
    parts = [
        "# Benchmarks",
        "Written by `python -m mrd_jax.main --mode eval --config configs/benchmarks.py`. "
        + _described(found),
        "## The field's table",
        LEGEND,
        field_table(found),
    ]
    for name, figures in found["sets"].items():
        parts += [f"## {name}", *_section(figures)]
    if found["skipped"]:
        parts.append("## Left out")
        parts.append("\n".join(f"- {name}: {why}" for name, why in found["skipped"].items()))
    return "\n\n".join(parts) + "\n"


def field_table(found: Mapping[str, Any]) -> str:
    """The three test sets of the field: this encoder, then what others published, by training set.

    Args:
      found: what `results.json` holds.

    Returns:
      A table in Markdown.
    """
    own = {figures["source"]: _student(figures) for figures in found["sets"].values()}
    rows = [
        ["encoder", "training set", *published.BENCHMARKS.values(), "source"],
        [
            f"**{_name(found)}**",
            "",
            *(_own_cell(own.get(name)) for name in published.BENCHMARKS),
            "measured here",
        ],
    ]
    order = list(published.TRAINING)
    for row in sorted(published.rows(), key=lambda row: order.index(row.training)):
        cells = [_cell(row.figures[name]) for name in published.BENCHMARKS]
        rows.append([row.method, row.training, *cells, row.source])
    return table.format_markdown(rows, left=(0, 1, len(rows[0]) - 1))


def _described(found: Mapping[str, Any]) -> str:
    """What was tested, and what its figures depend on."""
    card, hashes = found["encoder"], found["hashes"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    size = card["size"] or card["student"]["name"]
    return (
        f"The encoder is `{found['config']['checkpoint']}`: {size}, "
        f"{card['parameters'] / 1e6:.1f} M parameters, {card['points']:,} points a cloud, "
        f"{found['config']['windows']} of these clouds a shape, teacher `{card['teacher']}`. "
        f"SHA-256 of its files {hashes['checkpoint'][:16]}, of the config {hashes['config'][:16]}, "
        f"of the code {hashes['code'][:16]}; seed {found['seed']}; {versions}."
    )


def _section(figures: Mapping[str, Any]) -> list[str]:
    """One set: how large it is, the student among its baselines, and what else it can do."""
    counts = figures["counts"]
    lines = [results.from_dict(line) for line in figures["results"]]
    splits = ", ".join(f"{counts[name]:,} {name}" for name in ("train", "test") if name in counts)
    size = (
        f"Zero-shot, % of {counts['labelled']:,} shapes in {counts['classes']:,} classes. "
        f"Shapes: {splits}; {figures['points']:,} points each; fingerprint {figures['data']}."
    )
    if figures["mirrored"]:
        size += " Its clouds were mirrored, because the encoder was trained on the mirror images."
    frozen = {
        "zero_shot": _student(figures).metrics,
        "retrieval": _student(figures).retrieval,
    } | {name: figures[name] for name in ("linear_probe", "few_shot") if name in figures}
    rest = [["in %, but for penalties and ranks", "student"], *transfer.cells(frozen).items()]
    return [
        size,
        table.format_markdown([table.headings(), *(table.cells(line) for line in lines)]),
        *filter(None, [transfer.counts(frozen)]),
        table.format_markdown(rest),
    ]


def _student(figures: Mapping[str, Any]) -> results.Result:
    lines = (results.from_dict(line) for line in figures["results"])
    return next(line for line in lines if line.name == results.STUDENT)


def _name(found: Mapping[str, Any]) -> str:
    """Of the encoder, in the field's table."""
    return found["encoder"]["size"] or found["config"]["checkpoint"]


def _own_cell(student: results.Result | None) -> str:
    if student is None:
        return NOTHING
    return " / ".join(table.percent(student.metrics[f"top{k}"]) for k in (1, 3, 5))


def _cell(triple: Sequence[float | None]) -> str:
    """As others published it."""
    if all(value is None for value in triple):
        return NOTHING
    return " / ".join("-" if value is None else f"{value:.1f}" for value in triple)
