# SPDX-License-Identifier: Apache-2.0
"""The figures of the report: curves and the confusion matrix, each a picture with its words."""

import base64
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import ticker

# The palette of Okabe and Ito, which colour-blind readers can tell apart; yellow left out, since
# it is too pale for a line on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
# Curves that lie on one another, such as mirrored weights, can both be seen when dashed apart.
_DASHES = ("-", "--", ":", "-.")
# Fixed, so that the same run gives the same bytes.
STYLE: Any = {"svg.hashsalt": "mrd_jax", "font.size": 9.0}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture that can be put into a page, with the words that stand in for it.

    Attributes:
      title: heading of the figure.
      caption: what is drawn, for everyone.
      alt: what can be seen, for readers who cannot see it.
      source: data URI of the picture.
    """

    title: str
    caption: str
    alt: str
    source: str


@dataclasses.dataclass(frozen=True)
class _Panel:
    """Which keys share an axis, and how it is drawn."""

    title: str
    caption: str
    pattern: str
    scale: str = "linear"
    share: bool = False


PANELS = (
    _Panel("Loss", "The whole loss and its contrastive term.", r"train/(loss|total|contrastive)"),
    _Panel(
        "Distillation terms",
        "The three relation terms before their weights.",
        r"train/(intra|image|text)",
    ),
    _Panel(
        "Mixing weights",
        "How much each teacher relation counts in each term.",
        r"train/weight/.+",
        share=True,
    ),
    _Panel("Gradient norm", "Before clipping.", r"train/grad_norm", scale="log"),
    _Panel("Learning rate", "After warm-up and decay.", r"train/learning_rate"),
    _Panel("Throughput", "Samples per second.", r"train/samples_per_second"),
    _Panel(
        "Zero-shot accuracy",
        "Held-out shapes, in per cent.",
        r"test/(top\d+|mean_per_class)",
        share=True,
    ),
    _Panel(
        "Retrieval, recall at 5",
        "Held-out shapes against all names and pictures, in per cent.",
        r"test/retrieval/(?!unseen/).+/recall@5",
        share=True,
    ),
)


def curves(history: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Figure]:
    """Draws the curves of a run, leaving out what it did not measure.

    Args:
      history: as `history.read_metrics` returns.

    Returns:
      One figure per group of keys.
    """
    drawn = []
    for panel in PANELS:
        keys = [key for key in history if re.fullmatch(panel.pattern, key)]
        if keys:
            drawn.append(_draw_panel(panel, {key: history[key] for key in keys}))
    return drawn


def overlays(histories: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> list[Figure]:
    """Draws every metric that two or more runs measured, the runs over one another.

    Args:
      histories: by run, as `history.read_metrics` returns.

    Returns:
      One figure per metric, titled by its name, in the order of `curves`.
    """
    drawn = []
    keys = dict.fromkeys(key for history in histories.values() for key in history)
    for panel in PANELS:
        for key in keys:
            measured = {run: history[key] for run, history in histories.items() if key in history}
            if re.fullmatch(panel.pattern, key) and len(measured) > 1:
                named = dataclasses.replace(panel, title=key, caption=panel.title)
                drawn.append(_draw_panel(named, measured))
    return drawn


def confusion(table: np.ndarray, *, class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix: a row per true class, shaded by share, with the counts in it.

    Args:
      table: int [classes, classes], true classes in rows; classes that never occur on either
        side are left out.
      class_names: [classes].

    Returns:
      The figure.
    """
    used = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
    table, names = table[np.ix_(used, used)], [class_names[i] for i in used.tolist()]
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.0 + 0.19 * len(names)
    with matplotlib.rc_context(STYLE):
        canvas = mpl_figure.Figure(figsize=(side, side), layout="constrained")
        axes = canvas.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(table), strict=True):
            dark = shares[row, column] > 0.5
            axes.text(
                column,
                row,
                str(table[row, column]),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        right = int(np.trace(table))
        return Figure(
            title="Confusion matrix",
            caption="Row: true class. Column: predicted class. Numbers: shapes; shade: share of "
            "the row. The diagonal is right.",
            alt=f"Confusion matrix of {len(names)} classes: {right} of {table.sum()} shapes on "
            "the diagonal. The table above it lists the most frequent confusions.",
            source=data_uri(canvas),
        )


def _draw_panel(panel: _Panel, history: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draws the curves of one panel and says in words where each begins and ends."""
    factor = 100 if panel.share else 1
    with matplotlib.rc_context(STYLE | {"axes.spines.top": False, "axes.spines.right": False}):
        canvas = mpl_figure.Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = canvas.add_subplot()
        words = []
        labels = _short_labels(list(history))
        for index, (key, (steps, values)) in enumerate(history.items()):
            axes.plot(
                steps,
                factor * values,
                color=COLOURS[index % len(COLOURS)],
                linestyle=_DASHES[index % len(_DASHES)],
                marker="o" if len(steps) < 15 else None,
                markersize=3,
                label=labels[key],
            )
            words.append(
                f"{labels[key]} from {factor * values[0]:.4g} to {factor * values[-1]:.4g}"
            )
        axes.set_yscale(panel.scale)
        axes.set_xlabel("step")
        axes.set_ylabel("%" if panel.share else "")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
        axes.grid(alpha=0.25)
        if len(history) > 1:
            axes.legend(frameon=False, fontsize=8)
        first = min(int(steps[0]) for steps, _ in history.values())
        last = max(int(steps[-1]) for steps, _ in history.values())
        return Figure(
            title=panel.title,
            caption=panel.caption,
            alt=f"{panel.title}, steps {first} to {last}: {'; '.join(words)}.",
            source=data_uri(canvas),
        )


def _short_labels(keys: Sequence[str]) -> dict[str, str]:
    """Cuts what all keys of a panel share at their beginning and end, in whole words."""
    parts = [key.split("/") for key in keys]
    while all(len(words) > 1 for words in parts) and len({words[0] for words in parts}) == 1:
        parts = [words[1:] for words in parts]
    while all(len(words) > 1 for words in parts) and len({words[-1] for words in parts}) == 1:
        parts = [words[:-1] for words in parts]
    return {key: " ".join(words).replace("_", " ") for key, words in zip(keys, parts, strict=True)}


def data_uri(canvas: mpl_figure.Figure) -> str:
    """Writes a figure as an SVG inside a data URI, so that the page needs no other file."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
