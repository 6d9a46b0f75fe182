# SPDX-License-Identifier: Apache-2.0
r"""Runs mrd_jax on a Cloud TPU slice until the run is finished, and restarts it after preemptions.

python -m scripts.tpu_pod --name mrd --zone us-west4-a --type v5litepod-64 --spot --delete -- \
    --config configs/mrd_pointbert.py --workdir gs://BUCKET/runs/mrd \
    --config.data.directory=gs://BUCKET/openshape/1.0.0

The arguments after `--` are passed to `python -m mrd_jax.main` on every host. docs/tpu_pods.md is a
step-by-step guide. This machine needs Python 3.11, git and gcloud; with mrd_jax installed, the
config is validated here, too.
"""

import argparse
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Sequence

from scripts.tpu_pod import attempts, cloud, commands, preflight
from scripts.tpu_pod import options as option_parsing


def launch(options: argparse.Namespace) -> int:
    """Runs until the run is finished; returns the exit status, 1 if it gave up.

    Raises:
      commands.LaunchError: something is wrong that another attempt would not mend.
    """
    tpu = cloud.Slice(options)
    with tempfile.TemporaryDirectory() as folder:
        archive = pathlib.Path(folder) / f"mrd_jax-{options.commit}.tar.gz"
        if options.dry_run:
            print("\n".join(map(shlex.join, plan(tpu, archive))))
            return 0
        preflight.check(options)
        commands.run(pack(options.commit, archive))
        try:
            finished = attempts.run_until_finished(tpu, options, archive)
        except commands.LaunchError:
            release(tpu, options)
            raise
    release(tpu, options)
    return 0 if finished else 1


def pack(commit: str, archive: pathlib.Path) -> list[str]:
    """Returns the command that packs the commit."""
    return [*option_parsing.GIT, "archive", f"--output={archive}", commit]


def plan(tpu: cloud.Slice, archive: pathlib.Path) -> list[list[str]]:
    """Returns the commands of an attempt without a fault, in order."""
    return [
        pack(tpu.options.commit, archive),
        tpu.create(),
        tpu.copy(archive, cloud.HOST),
        tpu.install(),
        tpu.preflight(),
        tpu.run(),
    ]


def release(tpu: cloud.Slice, options: argparse.Namespace) -> None:
    """Deletes the slice with --delete; otherwise prints how to."""
    if not tpu.state():
        return
    if options.delete:
        commands.run(tpu.delete())
    else:
        commands.log(
            f"slice {options.name} is not deleted, and is billed until you run\n"
            + shlex.join(tpu.delete())
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 2 after an error."""
    try:
        return launch(option_parsing.parse(arguments, description=__doc__))
    except FileNotFoundError as error:
        message = f"{error.filename} was not found; this machine needs git and gcloud"
    except (commands.AttemptError, commands.LaunchError) as error:
        message = str(error)
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
