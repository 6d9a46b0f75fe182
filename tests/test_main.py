# SPDX-License-Identifier: Apache-2.0
"""The command line: what a first mistake looks like."""

import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "mrd_jax.main"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config", "configs/quickstart.py"], "--workdir"),
        (["--config", "configs/nothing.py", "--workdir", "w"], "configs/nothing.py"),
        (["--config", "configs/quickstart.py", "--workdir", "w", "stray"], "stray"),
        (
            ["--config", "configs/quickstart.py", "--workdir", "w", "--config.loss.lamda_intra=1"],
            "lamda_intra",
        ),
        (
            ["--config", "configs/quickstart.py", "--workdir", "w", "--config.data.directory=none"],
            "data_prep.build",
        ),
    ],
)
def test_a_first_mistake_is_named_and_writes_nothing(tmp_path, arguments, message):
    place = [a if a != "w" else str(tmp_path / "run") for a in arguments]
    done = subprocess.run(
        [*COMMAND, *place],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
