# SPDX-License-Identifier: Apache-2.0
"""Malformed files that the fuzzer found to be refused without a cause."""

import io

import numpy as np
import pytest
from loading import load

from data_prep.geometry import scene
from mrd_jax.search import inspection

COORDINATES = "property float x\nproperty float y\nproperty float z\n"
INDICES = "property list uchar int vertex_indices\n"
BODY = "end_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


@pytest.mark.parametrize(
    "name, properties", [("vertex", ("", INDICES)), ("face", (COORDINATES, ""))]
)
def test_ply_elements_without_properties_are_refused_by_name(name, properties):
    text = "ply\nformat ascii 1.0\nelement vertex 3\n{}element face 1\n{}".format(*properties)
    message = f"^malformed PLY header: an element without properties: {name}$"
    with pytest.raises(scene.MeshError, match=message):
        load(text + BODY, "ply")


def test_of_two_ply_elements_of_one_name_the_first_one_counts():
    text = f"ply\nformat ascii 1.0\nelement vertex 3\n{COORDINATES}element face 1\n{INDICES}"
    more = f"element vertex 1\n{COORDINATES}element face 0\n{INDICES}"
    content = load(text + more + BODY + "9 9 9\n", "ply")
    assert content.surface.triangles.shape == (1, 3, 3)


@pytest.mark.parametrize("angle", ["1e999", "-1e999"])
def test_faces_turned_by_an_angle_that_is_not_finite_are_dropped(angle):
    shape = (
        "Shape { geometry IndexedFaceSet { coord Coordinate { point [ 0 0 0, 1 0 0, 0 1 0 ] } "
        "coordIndex [ 0 1 2 -1 ] } }"
    )
    turned = f"Transform {{ rotation 0 0 1 {angle} children [ {shape} ] }}"
    content = load(f"#VRML V2.0 utf8\n{shape}\n{turned}", "wrl")
    assert len(content.surface.triangles) == 1
    assert content.notes == ("faces that are not finite, dropped: 1",)
    with pytest.raises(scene.MeshError, match="^non-finite coordinates$"):
        load(f"#VRML V2.0 utf8\n{turned}", "wrl")


@pytest.mark.parametrize("file_type", ["npy", "npz", "ply", "pcd", "xyz", "off", "obj", "wrl"])
def test_clouds_without_points_are_refused(tmp_path, file_type):
    arrays = io.BytesIO()
    {"npz": np.savez}.get(file_type, np.save)(arrays, np.zeros((0, 3)))
    texts = {
        "ply": f"ply\nformat ascii 1.0\nelement vertex 0\n{COORDINATES}end_header\n",
        "pcd": "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 0\n"
        "HEIGHT 1\nPOINTS 0\nDATA ascii\n",
        "xyz": "# x y z\n",
        "off": "OFF\n0 0 0\n",
        "obj": "# nothing\n",
        "wrl": "#VRML V2.0 utf8\nShape { geometry PointSet { coord Coordinate { point [ ] } } }",
    }
    path = tmp_path / f"empty.{file_type}"
    path.write_bytes(texts[file_type].encode() if file_type in texts else arrays.getvalue())
    facts = inspection.inspect_file(path).facts
    assert "no points" in facts.error or "no rows of numbers" in facts.error
