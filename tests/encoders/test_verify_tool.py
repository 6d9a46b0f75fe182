# SPDX-License-Identifier: Apache-2.0
"""The verify command prints its own lines and nothing of the libraries."""

import logging
import os
import subprocess
import sys

import numpy as np
from absl import logging as absl_logging
from tiny import tiny_config
from tiny_encoder import tiny_card

from mrd_jax.checkpoints import manager
from mrd_jax.cli import logs


def test_verifying_a_run_prints_nothing_on_stderr(tmp_path):
    checkpoints = manager.CheckpointManager(
        str(tmp_path), config=tiny_config(), fingerprint="data", card=tiny_card()
    )
    checkpoints.save({"w": np.zeros(3)}, step=1)
    checkpoints.close()
    command = [sys.executable, "-m", "mrd_jax.tools.verify", str(tmp_path)]
    # Without JAX_PLATFORMS, as users run it: JAX then tries every backend.
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": ""}
    )
    assert done.stdout == f"{tmp_path}/checkpoints/1: 1 arrays, intact\n"
    assert done.stderr == ""


def test_other_warnings_of_the_libraries_are_kept(caplog):
    logs.quiet_libraries()
    with caplog.at_level(logging.INFO):
        absl_logging.info("backends of this machine")
        absl_logging.warning("Metadata file does not exist: step/1")
        absl_logging.warning("the disk is slow")
    assert caplog.messages == ["the disk is slow"]
