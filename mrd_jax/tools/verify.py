# SPDX-License-Identifier: Apache-2.0
"""Reads checkpoints completely, compares them with their manifests, and lists the corrupt ones.

python -m mrd_jax.tools.verify runs/quickstart encoders/openshape

The exit status is 1 if a checkpoint is corrupt.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

from mrd_jax import storage
from mrd_jax.checkpoints import manifest, model_card, paths, restore, run_identity
from mrd_jax.cli import command

Opener = Callable[[storage.Path], restore.StoredStudent | restore.StoredEncoder]


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 1 if a checkpoint is corrupt."""
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.verify")
    parser.add_argument(
        "paths",
        nargs="+",
        type=command.encoder_path,
        help="workdirs, checkpoints or encoder folders",
    )
    corrupt = 0
    for path in parser.parse_args(arguments).paths:
        for checkpoint, open_student in find_checkpoints(path):
            try:
                print(f"{checkpoint}: {open_student(checkpoint).verify()} arrays, intact")
            except (manifest.CorruptCheckpointError, model_card.CardError) as error:
                corrupt += 1
                print(f"CORRUPT {error}")
    return int(corrupt > 0)


def find_checkpoints(path: storage.Path) -> Iterator[tuple[storage.Path, Opener]]:
    """Yields every checkpoint of a path with the function that opens it.

    Args:
      path: workdir of a run, one of its checkpoints, or encoder folder.

    Raises:
      FileNotFoundError: the path is none of these, or the run has no checkpoint.
    """
    if (path / run_identity.RUN_FILE).exists():
        for step in paths.steps(path):
            yield step, restore.student_of_step
    elif paths.is_step(path):
        yield path, restore.student_of_step
    elif restore.is_encoder(path):
        yield path, restore.student_of_encoder
    else:
        raise FileNotFoundError(
            f"{path} is neither the workdir of a run ({run_identity.RUN_FILE} is missing) nor one "
            f"of its checkpoints nor an encoder folder ({paths.CARD_FILE} is missing); check the "
            "path"
        )


if __name__ == "__main__":
    sys.exit(main())
