# SPDX-License-Identifier: Apache-2.0
r"""Finds the nearest other records of each record, for training with hard negatives.

python -m mrd_jax.tools.neighbours --data data/furniture/1.0.0
python -m mrd_jax.tools.neighbours --data data/furniture/1.0.0 --feature shape --checkpoint RUN

Nearest is the largest cosine between records' features: the mean of a record's image features (or
of its texts', and each stands in where the other is missing), or its shape's embedding by a trained
encoder, as OpenShape mines its negatives. Records with equal features are no neighbours. Writes
one file into the folder of the data set, where config.data.hard_negatives looks for it.
"""

import argparse
import itertools
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from mrd_jax import encoder as encoders
from mrd_jax.data import augment, source
from mrd_jax.data.hard_negatives import index as neighbour_index
from mrd_jax.data.hard_negatives import mining

FEATURES = ("image", "text", "shape")
# Records that are embedded at a time.
CHUNK = 1_024


def teacher_features(
    records: source.RecordSource, *, feature: str, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """The direction of each record's features from the teacher.

    Args:
      records: of the split.
      feature: "image" or "text"; the other one stands in where a record has none.
      dim: length of the teacher's features.

    Returns:
      int16 [records, dim], see `nearest.to_grid`, and bool [records], whether there is a feature.

    Raises:
      ValueError: a record's features have no direction; names it.
    """
    grid = np.zeros((len(records), dim), np.int16)
    present = np.zeros(len(records), bool)
    kinds = sorted(("image_features", "text_features"), key=lambda kind: feature not in kind)
    for index, record in enumerate(_progress(records, ("id", *kinds))):
        found = next((record[kind] for kind in kinds if len(record[kind])), None)
        if found is None:
            continue
        try:
            grid[index] = mining.to_grid(mining.unit_mean(found))
        except ValueError as error:
            raise ValueError(f"record {index}, {record['id']!r}: {error}") from error
        present[index] = True
    return grid, present


def shape_features(
    records: source.RecordSource, *, encoder: encoders.Encoder
) -> tuple[np.ndarray, np.ndarray]:
    """The embedding of each record's cloud.

    Args:
      records: of the split.
      encoder: that embeds them.

    Returns:
      as `teacher_features`.

    Raises:
      ValueError: the records have fewer points than the encoder takes.
    """
    # The first points of a record, as evaluation takes them.
    remaining = _progress(records, ("xyz", "rgb"))
    parts = []
    while chunk := list(itertools.islice(remaining, CHUNK)):
        batch = {name: np.stack([record[name] for record in chunk]) for name in ("xyz", "rgb")}
        xyz, rgb = map(np.asarray, augment.plain(batch, num_points=encoder.card.points))
        parts.append(mining.to_grid(encoder.embed(zip(xyz, rgb, strict=True))))
    return np.concatenate(parts), np.ones(len(records), bool)


def find(grid: np.ndarray, present: np.ndarray, *, count: int) -> np.ndarray:
    """The nearest records of each record.

    Args:
      grid: int16 [records, dim], from `teacher_features` or `shape_features`.
      present: bool [records], likewise.
      count: neighbours of each record.

    Returns:
      int32 [records, count], see `nearest.search`.
    """
    parts = []
    with tqdm.tqdm(total=len(grid), desc="searching", unit="record") as bar:
        for part in mining.search(grid, mining.group_equals(grid, present), count=count):
            parts.append(part)
            bar.update(len(part))
    return np.concatenate(parts)


def _progress(records: source.RecordSource, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """These fields of every record, with a progress bar."""
    indices = tqdm.trange(len(records), desc="reading", unit="record")
    return (records.read(index, fields) for index in indices)


def print_examples(records: source.RecordSource, indices: np.ndarray, *, examples: int) -> None:
    """Prints names of the nearest five records of some, spread over the split."""
    for index in np.linspace(0, len(records) - 1, examples).astype(int):
        names = [records[near]["name"] for near in indices[index, :5].tolist() if near >= 0]
        print(f"{records[index]['name']}: {', '.join(names) or '(none)'}")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
      arguments: without the program's name; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mrd_jax.tools.neighbours",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", required=True, type=pathlib.Path, help="folder of the data set, with its version")
    add("--split", default="train", help="to search; train")
    add("--feature", default="image", choices=FEATURES, help="to compare; image")
    add("--checkpoint", type=pathlib.Path, help="of --feature shape: workdir of a run, or encoder")
    add("--count", type=int, default=31, help="neighbours of each record; 31, as OpenShape's code")
    add("--output", type=pathlib.Path, help="file to write; left out: neighbours/SPLIT.npz in DATA")
    add("--examples", type=int, default=3, help="records whose neighbours are printed; 3")
    options = parser.parse_args(arguments)
    if (options.feature == "shape") != (options.checkpoint is not None):
        parser.error("--checkpoint belongs to --feature shape, and that needs it")
    if options.count < 1:
        parser.error(f"--count is {options.count}; expected a positive number")
    return options


def run(options: argparse.Namespace) -> None:
    """Reads, searches, writes and prints."""
    metadata = source.read_metadata(options.data)
    records = source.open_split(options.data, options.split)
    if options.count >= len(records):
        raise ValueError(
            f"--count is {options.count}, but split {options.split!r} has {len(records)} records, "
            f"so that each has at most {len(records) - 1} others"
        )
    started = time.perf_counter()
    if options.checkpoint:
        conventions = {name: metadata[name] for name in ("up_axis", "from_y_up", "normalisation")}
        encoder = encoders.load(options.checkpoint, **conventions)
        grid, present = shape_features(records, encoder=encoder)
    else:
        dim = metadata["teacher"]["dim"]
        grid, present = teacher_features(records, feature=options.feature, dim=dim)
    read = time.perf_counter()
    indices = find(grid, present, count=options.count)
    searched = time.perf_counter()
    found = neighbour_index.Neighbours(
        indices,
        fingerprint=source.fingerprint(metadata),
        split=options.split,
        feature=options.feature,
    )
    output = options.output or neighbour_index.default_path(options.data, options.split)
    neighbour_index.write(output, found)
    print_examples(records, indices, examples=options.examples)
    fewer = int((indices < 0).any(axis=1).sum())
    print(
        f"{options.count} neighbours of {len(records)} records by {options.feature} in {output}: "
        f"reading {read - started:.1f} s, searching {searched - read:.1f} s; {fewer} have fewer"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse_options(arguments)
    try:
        run(options)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
