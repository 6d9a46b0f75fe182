# SPDX-License-Identifier: Apache-2.0
"""Hang detection dumps the stacks of all threads."""

import subprocess
import sys

HANGS = """
import time
from mrd_jax.training import watchdog

def the_place_where_it_hangs():
    time.sleep(20)

watch = watchdog.Watchdog(minutes={minutes}, exit_on_hang={leave})
watch.reset()
{then}
"""


def run(*, minutes, leave, then):
    return subprocess.run(
        [sys.executable, "-c", HANGS.format(minutes=minutes, leave=leave, then=then)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_hang_dumps_all_stacks_and_exits_if_configured():
    ended = run(minutes=0.005, leave=True, then="the_place_where_it_hangs()")
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr and "the_place_where_it_hangs" in ended.stderr


def test_hang_dumps_all_stacks_and_continues_by_default():
    ended = run(minutes=0.005, leave=False, then="time.sleep(1)")
    assert ended.returncode == 0 and "Timeout" in ended.stderr


def test_progress_and_the_end_of_the_block_prevent_a_dump():
    steps = "[(watch.reset(), time.sleep(0.1)) for _ in range(10)]; watch.__exit__(); time.sleep(1)"
    assert run(minutes=0.01, leave=True, then=steps).stderr == ""
    assert run(minutes=0, leave=True, then="time.sleep(0.5)").stderr == ""
