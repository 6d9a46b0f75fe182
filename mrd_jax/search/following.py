# SPDX-License-Identifier: Apache-2.0
"""Brings an index up to date with its folders, once or whenever they change."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_prep.geometry.listing import printable
from mrd_jax.encoder import Encoder
from mrd_jax.search import changes, file_states, index_writer
from mrd_jax.search.manifest import Source


def run(
    folder: Path,
    encoder: Encoder,
    checkpoint: str,
    *,
    user: str,
    sources: Sequence[Source] = (),
    interval: float | None = None,
    batch_size: int = 32,
) -> int:
    """Updates an index and prints what has changed.

    Args:
      folder: folder of the index.
      encoder: encoder of the index.
      checkpoint: its fingerprint.
      user: name of the command, for the error of a second writer.
      sources: folders to look at, which the index follows from now on; () for all that it follows.
      interval: seconds between two looks at the folders; None to look once.
      batch_size: point clouds per batch.

    Returns:
      The exit status: 1 if a file was skipped.

    Raises:
      ValueError: the index follows no folder, or see `changes.follow`.
      index_writer.BusyError: another process changes the index.
    """
    report = update(folder, encoder, checkpoint, user=user, sources=sources, batch_size=batch_size)
    while interval is not None:
        time.sleep(interval)
        # What was skipped is reported once, and again when something has changed.
        report = update(
            folder,
            encoder,
            checkpoint,
            user=user,
            sources=sources,
            batch_size=batch_size,
            before=report,
        )
    return 1 if report.skipped else 0


def update(
    folder: Path,
    encoder: Encoder,
    checkpoint: str,
    *,
    user: str,
    sources: Sequence[Source] = (),
    batch_size: int = 32,
    before: changes.Report | None = None,
) -> changes.Report:
    """Updates an index once; the arguments are those of `run`.

    Args:
      folder: folder of the index.
      encoder: encoder of the index.
      checkpoint: its fingerprint.
      user: name of the command.
      sources: folders to look at; () for all.
      batch_size: point clouds per batch.
      before: result of the last update; nothing is printed if this one is the same.
    """
    with index_writer.open_writer(folder, user=user) as writer:
        writer.index.check_encoder(checkpoint)
        known = writer.manifest.sources
        sources = file_states.with_known_names(known, sources)
        merged = file_states.merged_sources(known, sources)
        if not merged:
            raise ValueError(
                f"{folder} follows no folder; build it with python -m mrd_jax.tools.index, or add "
                "shapes with python -m mrd_jax.tools.search add"
            )
        report = changes.follow(writer, sources or merged, encoder=encoder, batch_size=batch_size)
        if report.is_change or merged != known:
            writer.publish(sources=merged)
        if report.is_change or before is None or report.skipped != before.skipped:
            _print(folder, report, shapes=len(writer.index))
    return report


def _print(folder: Path, report: changes.Report, *, shapes: int) -> None:
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    for path, reason in report.skipped:
        print(f"skipped {printable(str(path))}: {reason}", file=sys.stderr)
    print(f"{folder} has {shapes} shapes: {report}", flush=True)
