# SPDX-License-Identifier: Apache-2.0
"""LiT teacher, which needs no model hub: a linear map from frozen image to text features."""

from data_prep.teachers.lit.teacher import CONFIG_FILE, LitTeacher
from data_prep.teachers.lit.training import train_lit

__all__ = ["CONFIG_FILE", "LitTeacher", "train_lit"]
