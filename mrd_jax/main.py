# SPDX-License-Identifier: Apache-2.0
"""Command line: flags -> config -> train, evaluate, or compare on every test set.

Kept short on purpose; what it calls can be imported and tested.
"""

import functools
import logging
import sys
from collections.abc import Callable

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from mrd_jax.distributed import compilation_cache, processes
from mrd_jax.evaluation import benchmark
from mrd_jax.training import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/x.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; an unfinished one continues.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval"],
    "Train, then evaluate; or evaluate: a checkpoint of a run, or any encoder on every test set.",
)
_STEP = flags.DEFINE_string(
    "step", "newest", "What --mode eval evaluates of a run: newest, best, or the number of a step."
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Join the other processes that the cluster names: TPU, SLURM, Open MPI."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "Or join at HOST:PORT, where process 0 listens; with the next two."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.")
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.")
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "Seconds to wait for the other processes to start.", lower_bound=1
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout",
    100,
    "Seconds without a sign of life after which a process counts as dead and the others abort.",
    lower_bound=1,
)


def show_progress() -> None:
    """Sends this package's messages to the terminal."""
    handler = logging.StreamHandler(sys.stderr)
    who = f"[{jax.process_index()}] " if jax.process_count() > 1 else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("mrd_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def command(config: ConfigDict, mode: str, step: str) -> Callable[[ConfigDict, str], None]:
    """What a config and the flags ask for; takes the config and the workdir.

    Raises:
      absl.app.UsageError: the config only evaluates, and the mode is to train; or a step is asked
        for where there is no choice.
    """
    if step != "newest" and (mode == "train" or "sets" in config):
        raise app.UsageError(
            f"--step={step} is for --mode eval of a run: training goes on from the newest "
            "checkpoint, and config.checkpoint names what is evaluated on every test set"
        )
    if "sets" not in config:
        evaluate = functools.partial(train.evaluate, which=step)
        return {"train": train.train_and_evaluate, "eval": evaluate}[mode]
    if mode == "train":
        raise app.UsageError("this config evaluates checkpoints and trains none: pass --mode eval")
    return benchmark.evaluate


def join() -> None:
    """Joins the other processes where the flags ask for it.

    Raises:
      absl.app.UsageError: the flags do not fit together, or there is no cluster.
    """
    place = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    asked = place != ("", None, None)
    if not (asked or _MULTIHOST.value):
        return
    if asked and _MULTIHOST.value:
        raise app.UsageError("--multihost finds what --coordinator says: pass one of them")
    try:
        processes.join(
            place[0],
            processes=place[1],
            process=place[2],
            join_timeout=_JOIN_TIMEOUT.value,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT.value,
        )
    except ValueError as error:
        raise app.UsageError(str(error)) from error


def main(argv: list[str]) -> None:
    """Runs one experiment."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option starts with --")
    run = command(_CONFIG.value, _MODE.value, _STEP.value)
    # Of the libraries, such as JAX on its way to the devices, only warnings.
    absl_logging.set_verbosity(absl_logging.WARNING)
    join()
    # After joining: this asks for the devices.
    compilation_cache.enable()
    show_progress()
    with processes.leaving_at_once():
        logging.getLogger("mrd_jax").info(
            "process %d of %d, %d local devices: %s",
            jax.process_index(),
            jax.process_count(),
            jax.local_device_count(),
            jax.devices()[0].device_kind,
        )
        run(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
