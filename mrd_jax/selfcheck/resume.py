# SPDX-License-Identifier: Apache-2.0
"""A run that is killed and resumed ends with the bits of one that was not."""

import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

from mrd_jax.checkpoints import paths, restore
from mrd_jax.selfcheck import tiny
from mrd_jax.selfcheck.results import FAIL, PASS, Context, Result
from mrd_jax.training import train

RECORDS = 64
# Steps of the run whose process is killed, after the first checkpoint.
STEPS = 40
# Seconds that one process may take; the first one compiles.
TIMEOUT = 300


def check_resume(context: Context) -> Iterator[Result]:
    """Compares the last checkpoints of a whole and of an interrupted run, bit for bit.

    In the quick form, a copy of the whole run's folder without its last checkpoint is continued in
    this process. Otherwise the training command is started, killed, and started again; that comes
    before this process uses its devices, which it would not share.
    """
    data = tiny.write_data(context.folder / "tiny", count=RECORDS, points=tiny.POINTS, dim=tiny.DIM)
    whole, resumed = context.folder / "whole", context.folder / "resumed"
    if context.quick:
        step = _resume_here(context, data, whole, resumed)
    else:
        step = _kill_and_resume(context, data, whole, resumed)
    sums = [restore.read_manifest(paths.newest(run))["leaves"] for run in (whole, resumed)]
    differing = [name for name, leaf in sums[0].items() if sums[1].get(name) != leaf]
    detail = f"{len(differing)} of {len(sums[0])} arrays differ, such as {differing[:3]}"
    values = {"arrays": len(sums[0]), "differing": len(differing), "resumed_from_step": step}
    status = FAIL if differing else PASS
    yield Result("resume", status, detail if differing else "", values)


def _resume_here(
    context: Context, data: pathlib.Path, whole: pathlib.Path, resumed: pathlib.Path
) -> int:
    """Trains, and continues a copy from its first checkpoint; returns the step of that."""
    config, devices = tiny.shrink(context.config), context.devices
    config.data.directory = str(data)
    train.train_and_evaluate(config, whole, devices=devices)
    shutil.copytree(whole, resumed)
    shutil.rmtree(str(paths.newest(resumed)))
    (resumed / train.FINISHED).unlink()
    step = int(paths.newest(resumed).name)
    train.train_and_evaluate(config, resumed, devices=devices)
    return step


def _kill_and_resume(
    context: Context, data: pathlib.Path, whole: pathlib.Path, resumed: pathlib.Path
) -> int:
    """Runs the training command three times; returns the step that the last one resumed from."""
    _finish(_start(context, data, whole), whole)
    killed = _start(context, data, resumed)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not _has_checkpoint(resumed) and killed.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no checkpoint in {TIMEOUT} s:\n{_log(resumed)}")
            time.sleep(0.01)
    finally:
        killed.kill()
        killed.wait()
    if (resumed / train.FINISHED).exists() or not _has_checkpoint(resumed):
        raise RuntimeError(f"the process was not killed between checkpoints:\n{_log(resumed)}")
    step = int(paths.newest(resumed).name)
    _finish(_start(context, data, resumed), resumed)
    return step


def _start(context: Context, data: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen:
    fields = tiny.fields(context.config) | {
        "total_steps": STEPS,
        "deterministic": True,
        "data.directory": str(data),
    }
    command = [sys.executable, "-m", "mrd_jax.main", f"--config={context.config_file}"]
    command += [f"--workdir={workdir}", "--nomultihost"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    with workdir.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)


def _finish(process: subprocess.Popen, workdir: pathlib.Path) -> None:
    try:
        status = process.wait(timeout=TIMEOUT)
    finally:
        process.kill()  # without effect on a process that has ended
        process.wait()
    if status or not (workdir / train.FINISHED).exists():
        raise RuntimeError(f"training ended with exit status {status}:\n{_log(workdir)}")


def _has_checkpoint(workdir: pathlib.Path) -> bool:
    try:
        return bool(paths.steps(workdir))
    except FileNotFoundError:
        return False


def _log(workdir: pathlib.Path) -> str:
    return workdir.with_suffix(".log").read_text(errors="replace")[-2000:]
