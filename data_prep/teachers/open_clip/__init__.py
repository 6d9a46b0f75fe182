# SPDX-License-Identifier: Apache-2.0
"""Teachers in the layout of OpenCLIP (github.com/mlfoundations/open_clip): CLIP and EVA-CLIP."""
