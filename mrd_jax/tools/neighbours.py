# SPDX-License-Identifier: Apache-2.0
r"""Finds the nearest neighbours of every record, for training with hard negatives.

python -m mrd_jax.tools.neighbours --data data/furniture/1.0.0
python -m mrd_jax.tools.neighbours --data data/furniture/1.0.0 --feature shape --checkpoint RUN

Nearest means the largest cosine similarity of the records' features: the mean of a record's image
features (or text features; if one is missing, the other is used), or the embedding of its shape by
a trained encoder, as OpenShape mines its negatives. Records with equal features are no neighbours.
Writes one file into the folder of the data set, where config.data.hard_negatives looks for it.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

import mrd_jax.encoder
from mrd_jax.cli import command
from mrd_jax.data import augment, dataset_metadata, source
from mrd_jax.data.hard_negatives import mining, neighbour_index
from mrd_jax.encoder import Encoder

FEATURES = ("image", "text", "shape")
# Records per call of the encoder.
CHUNK = 1_024


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    metadata = dataset_metadata.read(options.data)
    records = source.open_split(options.data, options.split)
    if options.count >= len(records):
        raise ValueError(
            f"--count is {options.count}, but split {options.split!r} has {len(records)} records; "
            f"expected at most {len(records) - 1}"
        )
    start = time.perf_counter()
    if options.checkpoint:
        conventions = {name: metadata[name] for name in ("up_axis", "from_y_up", "normalisation")}
        encoder = mrd_jax.encoder.load(options.checkpoint, **conventions)
        features, present = shape_features(records, encoder=encoder)
    else:
        dim = metadata["teacher"]["dim"]
        features, present = teacher_features(records, feature=options.feature, dim=dim)
    read = time.perf_counter()
    indices = search(features, present, count=options.count)
    searched = time.perf_counter()
    output = options.output or neighbour_index.default_path(options.data, options.split)
    neighbours = neighbour_index.NeighbourIndex(
        indices,
        fingerprint=dataset_metadata.fingerprint(metadata),
        split=options.split,
        feature=options.feature,
    )
    neighbour_index.write(output, neighbours)
    print_examples(records, indices, examples=options.examples)
    fewer = int((indices < 0).any(axis=1).sum())
    print(
        f"{options.count} neighbours of {len(records)} records by {options.feature} in {output}: "
        f"reading {read - start:.1f} s, searching {searched - read:.1f} s; {fewer} have fewer"
    )
    return 0


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.neighbours")
    add = parser.add_argument
    add("--data", required=True, type=command.path, help="folder of the data set, with its version")
    add("--split", default="train", help="split to search (default: train)")
    add("--feature", default="image", choices=FEATURES, help="feature to compare (default: image)")
    add(
        "--checkpoint",
        type=command.encoder_path,
        help="workdir or encoder folder for --feature shape",
    )
    add("--count", type=int, default=31, help="neighbours per record (default: 31)")
    add("--output", type=command.path, help="file to write (default: neighbours/SPLIT.npz in DATA)")
    add("--examples", type=int, default=3, help="records whose neighbours are printed (default: 3)")
    options = parser.parse_args(arguments)
    if (options.feature == "shape") != (options.checkpoint is not None):
        parser.error("--checkpoint belongs to --feature shape, and --feature shape needs it")
    if options.count < 1:
        parser.error(f"--count is {options.count}; expected a positive number")
    return options


def teacher_features(
    records: source.RecordSource, *, feature: str, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean teacher feature of every record.

    Args:
      records: records of a split.
      feature: "image" or "text"; the other one is used for records without it.
      dim: length of the teacher's features.

    Returns:
      The quantised features, int16 [records, dim], see `mining.quantise`; and whether each record
      has one, bool [records].

    Raises:
      ValueError: the features of a record have no mean direction; the message names the record.
    """
    features = np.zeros((len(records), dim), np.int16)
    present = np.zeros(len(records), bool)
    fields = sorted(("image_features", "text_features"), key=lambda field: feature not in field)
    for index, record in enumerate(_read_all(records, ("id", *fields))):
        rows = next((record[field] for field in fields if len(record[field])), None)
        if rows is None:
            continue
        try:
            features[index] = mining.quantise(mining.unit_mean(rows))
        except ValueError as error:
            raise ValueError(f"record {index}, {record['id']!r}: {error}") from error
        present[index] = True
    return features, present


def shape_features(
    records: source.RecordSource, *, encoder: Encoder
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embedding of every record's point cloud.

    Args:
      records: records of a split.
      encoder: encoder in whose conventions the data set was prepared.

    Returns:
      Two arrays as from `teacher_features`.

    Raises:
      ValueError: the records have fewer points than the encoder needs.
    """
    remaining = _read_all(records, ("xyz", "rgb"))
    parts = []
    while chunk := list(itertools.islice(remaining, CHUNK)):
        batch = {name: np.stack([record[name] for record in chunk]) for name in ("xyz", "rgb")}
        # The first points of a record, as in evaluation.
        xyz, rgb = map(np.asarray, augment.plain(batch, num_points=encoder.card.points))
        parts.append(mining.quantise(encoder.embed(zip(xyz, rgb, strict=True))))
    return np.concatenate(parts), np.ones(len(records), bool)


def _read_all(records: source.RecordSource, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Reads some fields of every record, with a progress bar."""
    indices = tqdm.trange(len(records), desc="reading", unit="record")
    return (records.read(index, fields) for index in indices)


def search(features: np.ndarray, present: np.ndarray, *, count: int) -> np.ndarray:
    """Returns the nearest neighbours of every record, with a progress bar.

    Args:
      features: int16 [records, dim], from `teacher_features` or `shape_features`.
      present: bool [records], likewise.
      count: neighbours per record.

    Returns:
      int32 [records, count], nearest first, padded with -1; see `mining.search`.
    """
    parts = []
    with tqdm.tqdm(total=len(features), desc="searching", unit="record") as bar:
        for part in mining.search(
            features, mining.group_duplicates(features, present), count=count
        ):
            parts.append(part)
            bar.update(len(part))
    return np.concatenate(parts)


def print_examples(records: source.RecordSource, indices: np.ndarray, *, examples: int) -> None:
    """Prints the five nearest neighbours of some records, spread over the split."""
    for index in np.linspace(0, len(records) - 1, examples).astype(int):
        names = [records[near]["name"] for near in indices[index, :5].tolist() if near >= 0]
        print(f"{records[index]['name']}: {', '.join(names) or '(none)'}")


if __name__ == "__main__":
    sys.exit(main())
