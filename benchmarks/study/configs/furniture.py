# SPDX-License-Identifier: Apache-2.0
"""The study's student on furniture, whose catalogues orient it in the same way."""

from ml_collections import ConfigDict

from benchmarks.study.configs import student


def get_config() -> ConfigDict:
    """Returns the student of the study, rotated by small angles about the vertical axis."""
    config = student.get_config()
    config.augment.rotate_z = 15.0
    return config
