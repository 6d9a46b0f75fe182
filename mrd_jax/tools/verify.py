# SPDX-License-Identifier: Apache-2.0
"""Read checkpoints completely, compare them with their manifests, and name the corrupt ones.

python -m mrd_jax.tools.verify runs/quickstart encoders/openshape
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from mrd_jax.checkpoints import manifest, model_card, paths, restore, run_identity

Opener = Callable[[epath.Path], restore.StoredStudent]


def find(path: epath.Path) -> Iterator[tuple[epath.Path, Opener]]:
    """Yields the checkpoints that a path means, each with the function that opens it.

    Args:
      path: workdir of a run, of which every checkpoint is meant, one checkpoint, or an encoder
        folder.

    Raises:
      FileNotFoundError: the path is none of these, or has no checkpoint.
    """
    if (path / run_identity.RUN_FILE).exists():
        for step in paths.steps(path):
            yield step, restore.student_of_step
    elif paths.is_step(path):
        yield path, restore.student_of_step
    elif (path / paths.CARD_FILE).exists():
        yield path, restore.student_of_encoder
    else:
        raise FileNotFoundError(
            f"{path} is neither the workdir of a run ({run_identity.RUN_FILE} is missing) nor one "
            f"of its checkpoints nor an encoder folder ({paths.CARD_FILE} is missing); check the "
            "path"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 1 if anything is corrupt."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths", nargs="+", type=epath.Path, help="workdirs, checkpoints, encoder folders"
    )
    corrupt = 0
    try:
        for path in parser.parse_args(arguments).paths:
            for checkpoint, open_student in find(path.absolute()):
                try:
                    print(f"{checkpoint}: {open_student(checkpoint).verify()} arrays, intact")
                except (manifest.CorruptCheckpointError, model_card.CardError) as error:
                    corrupt += 1
                    print(f"CORRUPT {error}")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    return int(corrupt > 0)


if __name__ == "__main__":
    sys.exit(main())
