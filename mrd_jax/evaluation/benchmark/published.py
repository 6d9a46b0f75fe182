# SPDX-License-Identifier: Apache-2.0
"""Published results on the three test sets of this field, quoted with their sources."""

import csv
import dataclasses
import pathlib

FILE = pathlib.Path(__file__).with_name("published.tsv")

# Source of data_prep -> column of the table. ScanObjectNN is the form of OpenShape's release only:
# the variants of the original files are other test sets.
BENCHMARKS = {
    "objaverse_lvis": "Objaverse-LVIS",
    "modelnet40": "ModelNet40",
    "scanobjectnn": "ScanObjectNN",
}
# Training sets, in the order of the rows.
TRAINING = {
    "-": "no training on 3D shapes",
    "S": "ShapeNet",
    "N": "OpenShape's ensemble without the shapes of Objaverse-LVIS",
    "E": "OpenShape's whole ensemble",
}

# Top-1, top-3 and top-5 in per cent; None if the source does not give it.
Triple = tuple[float | None, float | None, float | None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One published row.

    Attributes:
      training: training set, a key of `TRAINING`.
      method: name of the method with its backbone.
      figures: accuracies by test set, a key of `BENCHMARKS`.
      source: publication that the accuracies are quoted from.
    """

    training: str
    method: str
    figures: dict[str, Triple]
    source: str


def rows() -> list[Row]:
    """Reads the rows of `FILE`, in its order."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                training=line["training"],
                method=line["method"],
                figures={name: _triple(line[name]) for name in BENCHMARKS},
                source=line["source"],
            )
            for line in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]


def _triple(cell: str) -> Triple:
    """Parses a cell such as "46.8/-/77.0", or "-" for no accuracies."""
    if cell == "-":
        return None, None, None
    top1, top3, top5 = (None if part == "-" else float(part) for part in cell.split("/"))
    return top1, top3, top5
