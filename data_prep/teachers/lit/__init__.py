# SPDX-License-Identifier: Apache-2.0
"""The offline default teacher: a locked image model and a locked text model, linearly joined."""

from data_prep.teachers.lit.teacher import CONFIG_FILE, LitTeacher
from data_prep.teachers.lit.training import train_lit

__all__ = ["CONFIG_FILE", "LitTeacher", "train_lit"]
