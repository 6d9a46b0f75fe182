# SPDX-License-Identifier: Apache-2.0
"""Figures of the report pages: curves and the confusion matrix, with captions and alt texts."""

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import ticker
from PIL import Image

from mrd_jax import pages, storage
from mrd_jax.data import picture_files

# Palette of Okabe and Ito, which colour-blind readers can distinguish; without yellow, which is too
# pale for a line on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
# Different dashes keep curves visible that coincide, such as mirrored weights.
_DASHES = ("-", "--", ":", "-.")
# Curves up to which a legend leaves room for them inside the axes.
MANY_CURVES = 6
# The fixed salt makes the SVG of a figure deterministic.
STYLE: Any = {"svg.hashsalt": "mrd_jax", "font.size": 9.0}

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a page.

    Attributes:
      title: heading of the figure.
      caption: description of what is drawn, with units.
      alt: alternative text with the main values, for readers who cannot see the figure.
      source: data URI of the image.
    """

    title: str
    caption: str
    alt: str
    source: str


@dataclasses.dataclass(frozen=True)
class _Panel:
    """Metrics that share an axis, and how they are drawn.

    Attributes:
      title: heading of the figure.
      caption: description of the curves.
      pattern: regular expression of the metric names.
      unit: unit of the vertical axis.
      scale: scale of the vertical axis, "linear" or "log".
    """

    title: str
    caption: str
    pattern: str
    unit: str = ""
    scale: str = "linear"

    @property
    def factor(self) -> int:
        """Factor from the values of the metrics, which are fractions, to the unit."""
        return 100 if self.unit == "%" else 1


PANELS = (
    _Panel("Loss", "Total training loss and its contrastive term.", r"train/(loss|contrastive)"),
    _Panel(
        "Distillation terms",
        "The three relation terms of the loss, before they are weighted.",
        r"train/(intra|image|text)",
    ),
    _Panel(
        "Mixing weights",
        "Weight of each teacher relation in each distillation term and, if it is learned, of each "
        "term, in %.",
        r"train/weight/.+",
        unit="%",
    ),
    _Panel(
        "Schedule of the distillation terms",
        "Factor that multiplies the weights lambda of all distillation terms.",
        r"train/lambda_factor",
    ),
    _Panel(
        "Gradient norm",
        "Global norm of the gradient before clipping, on a logarithmic scale.",
        r"train/grad_norm",
        scale="log",
    ),
    _Panel(
        "Learning rate",
        "Learning rate of each step, with warm-up and decay.",
        r"train/learning_rate",
    ),
    _Panel(
        "Throughput",
        "Training samples per second, over all devices.",
        r"train/samples_per_second",
        unit="samples/s",
    ),
    _Panel(
        "Zero-shot accuracy",
        "Zero-shot accuracy on the held-out shapes, in %.",
        r"test/(top\d+|mean_per_class)",
        unit="%",
    ),
    _Panel(
        "Retrieval, recall at 5",
        "Recall at 5 between held-out shapes and all held-out names and pictures, in %.",
        r"test/retrieval/(?!unseen/).+/recall@5",
        unit="%",
    ),
    _Panel(
        "Effective neighbours of the relations",
        "Number of held-out shapes that a row of a relation spreads over (its perplexity): of each "
        "target of the teacher, and of the student's relation that follows it. V is the mean of a "
        "shape's views and T its name, so that the teacher's numbers need not be those that the "
        "config asks for, which hold for training batches.",
        r"relation/.+_neighbours",
        scale="log",
    ),
    _Panel(
        "Diagonal of the cross-modal relations",
        "Share of a row that falls on the shape itself. A target near 1 is a second contrastive "
        "loss.",
        r"relation/(image|text)/.+_diagonal",
    ),
)


def draw_curves(history: Curves) -> list[Figure]:
    """Draws the curves of a run, a figure for each panel that has metrics.

    Args:
      history: metrics as `history.read_metrics` returns them.
    """
    drawn = []
    for panel in PANELS:
        keys = [key for key in history if re.fullmatch(panel.pattern, key)]
        if keys:
            drawn.append(_draw_panel(panel, {key: history[key] for key in keys}))
    return drawn


def draw_overlays(histories: Mapping[str, Curves]) -> list[Figure]:
    """Draws the curves of several runs over one another, a figure per metric.

    Args:
      histories: metrics by run, as `history.read_metrics` returns them.

    Returns:
      Figures of the metrics that two or more runs have, in the order of `draw_curves`.
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


def draw_confusion(table: np.ndarray, *, class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix with the counts in its cells.

    Args:
      table: int [classes, classes], true classes in rows and predicted ones in columns; classes
        that occur in neither are not drawn.
      class_names: [classes].
    """
    used = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
    table, names = table[np.ix_(used, used)], [class_names[i] for i in used.tolist()]
    fractions = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 2.0 + 0.19 * len(names)
    with matplotlib.rc_context(STYLE):
        canvas = mpl_figure.Figure(figsize=(side, side), layout="constrained")
        axes = canvas.add_subplot()
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(table), strict=True):
            dark = fractions[row, column] > 0.5
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
        correct = int(np.trace(table))
        return Figure(
            title="Confusion matrix",
            caption="Rows are true classes, columns are predicted classes. Numbers count shapes; "
            "the shade is their fraction of the row. The diagonal is correct.",
            alt=f"Confusion matrix of {len(names)} classes: {correct} of {table.sum()} shapes on "
            "the diagonal. The table above it lists the most frequent confusions.",
            source=figure_uri(canvas),
        )


def _draw_panel(panel: _Panel, history: Curves) -> Figure:
    """Draws the curves of one panel; the alternative text gives their first and last values."""
    factor = panel.factor
    with matplotlib.rc_context(STYLE | {"axes.spines.top": False, "axes.spines.right": False}):
        many = len(history) > MANY_CURVES
        canvas = mpl_figure.Figure(figsize=(5.4, 4.6 if many else 3.4), layout="constrained")
        axes = canvas.add_subplot()
        descriptions = []
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
            descriptions.append(
                f"{labels[key]} from {factor * values[0]:.4g} to {factor * values[-1]:.4g}"
            )
        axes.set_yscale(panel.scale)
        if panel.scale == "log":
            plain_numbers = ticker.LogFormatter(minor_thresholds=(2, 0.4))
            axes.yaxis.set_major_formatter(plain_numbers)
            axes.yaxis.set_minor_formatter(plain_numbers)
        axes.set_xlabel("step")
        axes.set_ylabel(panel.unit)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
        axes.grid(alpha=0.25)
        if many:
            canvas.legend(frameon=False, fontsize=8, ncols=2, loc="outside lower center")
        elif len(history) > 1:
            axes.legend(frameon=False, fontsize=8)
        first = min(int(steps[0]) for steps, _ in history.values())
        last = max(int(steps[-1]) for steps, _ in history.values())
        return Figure(
            title=panel.title,
            caption=panel.caption,
            alt=f"{panel.title}, steps {first} to {last}: {'; '.join(descriptions)}.",
            source=figure_uri(canvas),
        )


def _short_labels(keys: Sequence[str]) -> dict[str, str]:
    """Removes the words that all keys have in common at their beginning and their end."""
    parts = [key.split("/") for key in keys]
    while all(len(words) > 1 for words in parts) and len({words[0] for words in parts}) == 1:
        parts = [words[1:] for words in parts]
    while all(len(words) > 1 for words in parts) and len({words[-1] for words in parts}) == 1:
        parts = [words[:-1] for words in parts]
    return {key: " ".join(words).replace("_", " ") for key, words in zip(keys, parts, strict=True)}


def figure_uri(canvas: mpl_figure.Figure) -> str:
    """Returns a figure as an SVG in a data URI, so that the page needs no other file."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    return pages.data_uri(buffer.getvalue(), "image/svg+xml")


def picture_uri(path: storage.Path, *, size: int) -> str:
    """Returns a picture, reduced in size, as a JPEG in a data URI.

    Args:
      path: picture that Pillow can read, see `data.picture_files`; transparent parts become white.
      size: maximum length of the longer side, in pixels.

    Returns:
      A data URI; "" if it does not exist, because a data set may have no pictures.
    """
    data = picture_files.read(path)
    if data is None:
        return ""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGBA")
        image.thumbnail((size, size))
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
    buffer = io.BytesIO()
    flat.save(buffer, format="JPEG", quality=80)
    return pages.data_uri(buffer.getvalue(), "image/jpeg")


def evenly_spaced(count: int, *, limit: int) -> np.ndarray:
    """Returns at most `limit` evenly spaced indices of 0..count-1, int64."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(int)
