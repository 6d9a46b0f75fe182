# SPDX-License-Identifier: Apache-2.0
"""Teachers in the layout of OpenCLIP (github.com/mlfoundations/open_clip): CLIP and EVA-CLIP."""

from data_prep.teachers.open_clip.places import CONFIG_FILE, check_folder, is_open_clip
from data_prep.teachers.open_clip.teacher import OpenClipTeacher

__all__ = ["CONFIG_FILE", "OpenClipTeacher", "check_folder", "is_open_clip"]
