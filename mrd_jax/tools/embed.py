# SPDX-License-Identifier: Apache-2.0
"""Embeds files of meshes and clouds with a trained or converted encoder.

Writes an npz file: `embeddings` [n, dim] of unit norm and `files` [n], in the order given; what is
known of these, `names`, `creators`, `licences` and `up` [n]; `skipped` [m] and `reasons` [m]; the
encoder's `card` as JSON and the hash of its `checkpoint`. A file that cannot be used is reported
and skipped, and the exit status is then 1; 2 means that nothing was embedded at all.

A folder may hold a table of its shapes, as `data_prep.sources.folder` describes it. Then the files
that it lists are embedded, with the name, creator, licence and vertical axis that it says.
"""

import argparse
import collections
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from data_prep.geometry import clouds
from mrd_jax import atomic_io
from mrd_jax import encoder as encoders
from mrd_jax.checkpoints import hashes, model_card
from mrd_jax.search import files as files_lib


@dataclasses.dataclass
class Report:
    """What became of the files; both lists grow while they are read, in their order.

    Attributes:
      files: that became clouds.
      skipped: (file, reason) of the others.
    """

    files: list[Path] = dataclasses.field(default_factory=list)
    skipped: list[tuple[Path, str]] = dataclasses.field(default_factory=list)


def embed_files(
    encoder: encoders.Encoder,
    paths: Sequence[Path],
    *,
    up: str | Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[np.ndarray, Report]:
    """Embeds files in their order, reading ahead of the devices; problems go to stderr.

    Args:
      encoder: with the card that the clouds are made for.
      paths: of files that `clouds.read_cloud` reads.
      up: "y" or "z", the vertical axis of all files, or of each; "" or None: by their type.
      seed: of the sampling of points.
      batch_size: clouds a call, over all devices.

    Returns:
      float32 [embedded files, dim] of unit norm, and what became of each file.
    """
    report = Report()
    conventions = clouds.Conventions.of(encoder.card)

    axes = [up] * len(paths) if up is None or isinstance(up, str) else up

    def read(file: tuple[Path, str | None]) -> clouds.Cloud | clouds.CloudError:
        path, axis = file
        try:
            return clouds.read_cloud(path, conventions=conventions, up=axis or None, seed=seed)
        except clouds.CloudError as error:
            return error

    def readable() -> Iterator[encoders.Cloud]:
        bar = tqdm.tqdm(total=len(paths), desc="embedding", unit="file")
        with bar:
            files = zip(paths, axes, strict=True)
            for path, cloud in zip(paths, _ahead(read, files, count=2 * batch_size), strict=True):
                bar.update()
                if isinstance(cloud, clouds.CloudError):
                    bar.write(f"skipped {path}: {cloud}", file=sys.stderr)
                    report.skipped.append((path, str(cloud)))
                    continue
                if cloud.faults:
                    bar.write(f"note: {path}: {', '.join(cloud.faults)}", file=sys.stderr)
                report.files.append(path)
                yield cloud.xyz, cloud.rgb

    return encoder.embed(readable(), batch_size=batch_size), report


def write_embeddings(
    output: Path,
    embeddings: np.ndarray,
    report: Report,
    *,
    known: Sequence[files_lib.File],
    card: model_card.ModelCard,
    checkpoint: str,
) -> None:
    """Writes the npz file that the command promises, complete or not at all."""
    by_path = {file.path: file for file in known}
    files = [by_path[path] for path in report.files]
    atomic_io.write_npz(
        output,
        embeddings=embeddings,
        files=np.array([str(file.path) for file in files], np.str_),
        names=np.array([file.name for file in files], np.str_),
        creators=np.array([file.creator for file in files], np.str_),
        licences=np.array([file.licence for file in files], np.str_),
        up=np.array([file.up for file in files], np.str_),
        skipped=np.array([str(path) for path, _ in report.skipped], np.str_),
        reasons=np.array([reason for _, reason in report.skipped], np.str_),
        card=np.array(card.to_json()),
        checkpoint=np.array(checkpoint),
    )


def _ahead(function: Callable, items: Iterable, *, count: int) -> Iterator[Any]:
    """Like `map`, but a thread works up to `count` items ahead.

    One thread: meshes are read by Python code, which would not run in parallel anyway.
    """
    pool = futures.ThreadPoolExecutor(max_workers=1)
    waiting: collections.deque[futures.Future] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
      arguments: without the program's name; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mrd_jax.tools.embed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=f"{', '.join(clouds.TYPES)}; a folder is searched, sorted, or has a table",
    )
    add(
        "--checkpoint",
        required=True,
        type=Path,
        help="workdir of a run or one of its checkpoints, or folder of mrd_jax.encoder.save or "
        "mrd_jax.tools.convert",
    )
    add("--output", required=True, type=Path, help="npz file to write")
    add(
        "--up",
        choices=("y", "z"),
        help="vertical axis of all files that are in no table; left out: y for glb, gltf and obj, "
        "z for the rest",
    )
    add("--batch_size", type=int, default=32, help="clouds a call over all devices; 32")
    add("--seed", type=int, default=0, help="of the sampling of points; 0")
    add("--teacher", help="refuse a checkpoint whose card names another teacher")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch_size is {options.batch_size}; expected a positive number")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse_options(arguments)
    try:
        listing = files_lib.find(options.files, leave_out=options.output)
        known = [
            dataclasses.replace(file, up=file.up or options.up or "") for file in listing.files
        ]
        paths = [file.path for file in known]
        clouds.check_readable(paths)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        encoder = encoders.load(options.checkpoint, teacher=options.teacher)
    except (OSError, ValueError, clouds.MeshesUnsupportedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if listing.left_out:
        print(
            f"note: left out {len(listing.left_out)} files that the table of their folder does not "
            f"list, such as {listing.left_out[0]}",
            file=sys.stderr,
        )
    embeddings, report = embed_files(
        encoder,
        paths,
        up=[file.up for file in known],
        seed=options.seed,
        batch_size=options.batch_size,
    )
    write_embeddings(
        options.output,
        embeddings,
        report,
        known=known,
        card=encoder.card,
        checkpoint=hashes.checkpoint(options.checkpoint),
    )
    print(
        f"embedded {len(report.files)} of {len(paths)} files into {options.output}; "
        f"skipped {len(report.skipped)}"
    )
    return 1 if report.skipped else 0


if __name__ == "__main__":
    sys.exit(main())
