# SPDX-License-Identifier: Apache-2.0
"""What others published on the three test sets of this field, quoted with its source."""

import csv
import dataclasses
import pathlib

FILE = pathlib.Path(__file__).with_name("published.tsv")

# Source of data_prep -> its name in the field's table. Of ScanObjectNN only the form of OpenShape's
# release is meant: the variants of the original files are other test sets.
BENCHMARKS = {
    "objaverse_lvis": "Objaverse-LVIS",
    "modelnet40": "ModelNet40",
    "scanobjectnn": "ScanObjectNN",
}
# Training sets in the order of the table.
TRAINING = {
    "-": "no training on 3D shapes",
    "S": "ShapeNet",
    "N": "OpenShape's ensemble without the shapes of Objaverse-LVIS",
    "E": "OpenShape's whole ensemble",
}

# Top-1, top-3 and top-5 in %; None where the source does not give it.
Triple = tuple[float | None, float | None, float | None]


@dataclasses.dataclass(frozen=True)
class Row:
    """One published row.

    Attributes:
      training: a key of `TRAINING`.
      method: with its backbone.
      figures: by a key of `BENCHMARKS`.
      source: where it was read.
    """

    training: str
    method: str
    figures: dict[str, Triple]
    source: str


def rows() -> list[Row]:
    """The rows of `FILE`, in its order."""
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
    """Reads "46.8/-/77.0", or "-" for nothing."""
    if cell == "-":
        return None, None, None
    top1, top3, top5 = (None if part == "-" else float(part) for part in cell.split("/"))
    return top1, top3, top5
