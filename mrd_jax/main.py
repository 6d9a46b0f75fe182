# SPDX-License-Identifier: Apache-2.0
"""Command line: trains or fine-tunes, evaluates a run, or an encoder on every test set.

python -m mrd_jax.main --config configs/quickstart.py --workdir runs/quickstart
"""

import functools
from collections.abc import Callable

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mrd_jax import storage
from mrd_jax.cli import command, flag_parsing, logs
from mrd_jax.distributed import cluster, compilation_cache, determinism, gpus, processes
from mrd_jax.evaluation import benchmark
from mrd_jax.finetuning import finetune
from mrd_jax.training import preflight, train, validation

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/x.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder or gs:// URL of the run; an unfinished run continues."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "finetune", "check", "validate"],
    "Train and evaluate; finetune an encoder on the classes of a data set, with a config such as "
    "configs/finetune.py; or only evaluate: a checkpoint, or an encoder on every test set. check "
    "reads the data and the initial weights and writes to the workdir's folder, without training; "
    "validate prints a valid config.",
)
_STEP = flags.DEFINE_string(
    "step", "newest", "Checkpoint that --mode eval evaluates: newest, best, or a step."
)
_MULTIHOST = flags.DEFINE_bool(
    "multihost",
    None,
    "Join the other processes of Cloud TPU, Slurm, torchrun, Open MPI or Kubernetes. --nomultihost "
    "runs each process that they start on its own.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "Join the processes at HOST:PORT of process 0; needs the next two flags."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes.")
_PROCESS = flags.DEFINE_integer("process", None, "Index of this process, from 0.")
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "Seconds to wait for the other processes to start.", lower_bound=1
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout",
    100,
    "Seconds without a heartbeat after which a process counts as lost and the others abort.",
    lower_bound=1,
)
_DEVICES = flags.DEFINE_integer(
    "devices", 0, "Devices that --mode check and validate assume; 0 for those of this host."
)
_UNFINISHED_STATUS = flags.DEFINE_integer(
    "unfinished_status",
    0,
    "Exit status after a graceful shutdown before the last step, for supervisors that restart a "
    "command only if its status is not 0.",
)
flags.DEFINE_bool("debug", False, command.DEBUG_HELP)


def choose(
    config: ConfigDict, mode: str, step: str, *, devices: int = 0
) -> Callable[[ConfigDict, storage.PathLike], bool | None]:
    """Returns the function of config and workdir that the flags ask for.

    It returns whether the run is finished, or None.

    Raises:
      ValueError: the flags contradict each other or the config.
    """
    if mode == "check" and "finetune" in config:
        return functools.partial(finetune.check, devices=devices)
    if mode in ("validate", "check"):
        return functools.partial(getattr(preflight, mode), devices=devices)
    if mode == "finetune" or "finetune" in config:
        return _choose_finetuning(config, mode, step)
    trains = "sets" not in config
    if not trains and mode == "train":
        raise ValueError("--mode is train, but this config only evaluates: pass --mode eval")
    if step != "newest" and (mode == "train" or not trains):
        raise ValueError(
            f"--step is {step}, which is for --mode eval of a run: training continues from the "
            "newest checkpoint, and a benchmark evaluates config.checkpoint"
        )
    if not trains:
        return benchmark.evaluate
    if mode == "train":
        return train.train_and_evaluate
    return functools.partial(train.evaluate, which=step)


def _choose_finetuning(
    config: ConfigDict, mode: str, step: str
) -> Callable[[ConfigDict, storage.PathLike], bool | None]:
    if mode != "finetune":
        raise ValueError(
            f"--mode is {mode}, but this config fine-tunes: pass --mode finetune; to evaluate the "
            "result, name WORKDIR/encoder in config.checkpoint of configs/benchmarks.py"
        )
    if "finetune" not in config:
        raise ValueError(
            "--mode is finetune, but this config has no fields config.finetune: pass one such as "
            "configs/finetune.py"
        )
    if step != "newest":
        raise ValueError(f"--step is {step}, which is for --mode eval of a run")
    return finetune.finetune


def main(_: list[str]) -> int:
    """Runs one experiment and returns the exit status."""
    execute = choose(_CONFIG.value, _MODE.value, _STEP.value, devices=_DEVICES.value)
    workdir = storage.path(_WORKDIR.value)
    visible_gpus = gpus.count_visible()
    if visible_gpus and _CONFIG.value.get("deterministic") is True:
        determinism.enable()
    cluster.join_if_asked(
        multihost=_MULTIHOST.value,
        coordinator=_COORDINATOR.value,
        processes=_PROCESSES.value,
        process=_PROCESS.value,
        join_timeout=_JOIN_TIMEOUT.value,
        heartbeat_timeout=_HEARTBEAT_TIMEOUT.value,
    )
    # After joining, since both ask JAX for its devices.
    compilation_cache.enable()
    logs.show()
    if _MODE.value != "validate":
        gpus.check_used(visible_gpus)
    with processes.exiting_on_error():
        finished = execute(_CONFIG.value, workdir)
    return 0 if finished or finished is None else _UNFINISHED_STATUS.value


def run() -> None:
    """Parses the flags and runs one experiment; ends the process with its exit status."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(
        command.reports_errors(main),
        flags_parser=functools.partial(flag_parsing.parse, explain=validation.renamed),
    )


if __name__ == "__main__":
    run()
