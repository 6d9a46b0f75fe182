# SPDX-License-Identifier: Apache-2.0
"""Read checkpoints whole and compare them with their manifests; damaged ones are named.

python -m mrd_jax.tools.verify runs/quickstart encoders/openshape
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from mrd_jax import card, encoder
from mrd_jax.faults import manifest
from mrd_jax.workdir import identity, saved


def find(place: epath.Path) -> Iterator[tuple[epath.Path, Callable[[epath.Path], int]]]:
    """The checkpoints that a path means, and how each is verified.

    Args:
      place: workdir of a run, whose steps are meant, one of these, or folder of an encoder.

    Raises:
      FileNotFoundError: it is none of them, or holds no checkpoint.
    """
    if (place / identity.RUN_FILE).exists():
        for step in saved.steps(place):
            yield step, saved.verify
    elif saved.is_step(place):
        yield place, saved.verify
    elif (place / encoder.CARD_FILE).exists():
        yield place, encoder.verify
    else:
        raise FileNotFoundError(
            f"{place} is neither the workdir of a run ({identity.RUN_FILE} is missing) nor one of "
            f"its checkpoints nor the folder of an encoder ({encoder.CARD_FILE} is missing); check "
            "the path"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 if anything is damaged."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("places", nargs="+", type=epath.Path, help="workdirs, steps, encoders")
    damaged = 0
    try:
        for place in parser.parse_args(arguments).places:
            for checkpoint, verify in find(place.absolute()):
                try:
                    print(f"{checkpoint}: {verify(checkpoint)} arrays, as they were saved")
                except (manifest.DamagedError, card.CardError) as error:
                    damaged += 1
                    print(f"DAMAGED {error}")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    return int(damaged > 0)


if __name__ == "__main__":
    sys.exit(main())
