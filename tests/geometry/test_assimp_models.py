# SPDX-License-Identifier: Apache-2.0
"""Every file of Debian's assimp-testmodels is read as an independent reader does, or refused.

sudo apt-get install assimp-testmodels && pip install assimp_py trimesh
"""

import os
from pathlib import Path

import corpus
import pytest

from data_prep.geometry import formats

FOLDER = Path(os.environ.get("ASSIMP_MODELS", "/usr/share/assimp/models"))
FILES = [
    path.relative_to(FOLDER).as_posix()
    for path in sorted(FOLDER.rglob("*"))
    if path.is_file() and formats.suffix(path) in formats.TYPES
]
# Files whose extents differ from both other readers, each with the reason why ours are right.
DIFFERS: dict[str, str] = {
    "Collada/earthCylindrical.DAE": "assimp scales and turns it; trimesh stops at decimal commas",
    "Collada/teapots.DAE": "assimp scales and turns it; trimesh stops at decimal commas",
    "Collada/library_animation_clips.dae": "assimp turns z to y; trimesh ignores skins",
    "X3D/ComputerKeyboard.x3d": "assimp reads one triangle of each key, an Extrusion",
}
# Files that neither of the others reads.
ALONE = (
    "WRL/MotionCaptureROM.WRL",
    "WRL/Wuson.wrl",
    "glTF2/IncorrectVertexArrays/Cube.gltf",  # strips and fans of too few indices, which are noted
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason=f"no {FOLDER}: install Debian's assimp-testmodels"),
]


@pytest.mark.parametrize("file", FILES)
def test_file_is_read_as_others_do_or_refused_by_name(file):
    pytest.importorskip("assimp_py", reason="the independent reader assimp_py is not installed")
    outcome = corpus.compare(FOLDER / file)
    if outcome["outcome"] == "refused":
        assert "unreadable" not in outcome["error"], outcome["error"]
    elif file in DIFFERS:
        assert outcome["outcome"] == "differs"
    elif file in ALONE:
        assert outcome["outcome"] == "alone"
    else:
        assert outcome["outcome"] == "equal", outcome
