# SPDX-License-Identifier: Apache-2.0
"""The study's student on CAD models of parts, which stand on the board in any direction."""

from ml_collections import ConfigDict

from benchmarks.study.configs import student


def get_config() -> ConfigDict:
    """Returns the student of the study with half of the groups dropped in training."""
    config = student.get_config()
    config.model.patch_dropout = 0.5
    return config
