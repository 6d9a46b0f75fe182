# SPDX-License-Identifier: Apache-2.0
"""glTF: which nodes of a file are read, and where they are."""

import gltf_files
import numpy as np
import pytest

from data_prep.geometry.readers.gltf import graph

# Unit cubes have an area of 6.
HALF = float(np.sqrt(0.5))


def cubes(*nodes, **tree):
    """Returns a file of unit cubes, from 0 to 1, at the given nodes; all are roots."""
    file = gltf_files.File()
    file.mesh(file.primitive(gltf_files.CORNERS, gltf_files.CUBE))
    file.tree["nodes"] = list(nodes)
    file.tree["scenes"] = [{"nodes": list(range(len(nodes)))}]
    file.tree |= tree
    return file


def bounds(file):
    """Returns the lowest and the highest corner, and the notes."""
    found, notes = gltf_files.scene(file.glb())
    corners = np.concatenate([part.triangles.reshape(-1, 3) for part in found.parts])
    return corners.min(axis=0), corners.max(axis=0), notes


@pytest.mark.parametrize(
    ("node", "low", "high"),
    [
        ({"translation": [1, 2, 3]}, [1, 2, 3], [2, 3, 4]),
        ({"scale": [1, 2, 3]}, [0, 0, 0], [1, 2, 3]),
        ({"scale": [-1, 2, 3]}, [-1, 0, 0], [0, 2, 3]),
        # A quarter turn about x takes y to z and z to -y.
        ({"rotation": [HALF, 0, 0, HALF], "scale": [1, 2, 3]}, [0, -3, 0], [1, 0, 2]),
        ({"rotation": [5, 0, 0, 5], "scale": [1, 2, 3]}, [0, -3, 0], [1, 0, 2]),
        ({"rotation": [0, 0, 0, 0]}, [0, 0, 0], [1, 1, 1]),
        ({"matrix": [0, 2, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1]}, [4, 6, 7], [5, 8, 8]),
        (
            {"translation": [10, 0, 0], "rotation": [HALF, 0, 0, HALF], "scale": [1, 2, 3]},
            [10, -3, 0],
            [11, 0, 2],
        ),
    ],
)
def test_transform_of_a_node_applies(node, low, high):
    found = bounds(cubes({"mesh": 0, **node}))
    np.testing.assert_allclose(found[0], low, atol=1e-12)
    np.testing.assert_allclose(found[1], high, atol=1e-12)
    assert found[2] == []


def test_transforms_of_parents_apply_from_the_inside_out():
    file = cubes(
        {"translation": [10, 0, 0], "children": [1]},
        {"rotation": [0, 0, HALF, HALF], "children": [2]},
        {"scale": [3, 1, 1], "translation": [1, 0, 0], "mesh": 0},
        scenes=[{"nodes": [0]}],
    )
    low, high, _ = bounds(file)
    # x from 1 to 4 turns to y from 1 to 4, and y from 0 to 1 to x from -1 to 0.
    np.testing.assert_allclose([low, high], [[9, 1, 0], [10, 4, 1]], atol=1e-12)


def test_positions_keep_the_precision_of_float64():
    file = cubes({"mesh": 0, "translation": [4e6 + 1 / 3, 0, 0]})
    assert bounds(file)[0][0] == 4e6 + 1 / 3


def test_mesh_of_several_nodes_is_placed_at_each():
    size, area, notes = gltf_files.extent(
        cubes({"mesh": 0}, {"mesh": 0, "translation": [4, 0, 0]}, {"mesh": 0}).glb()
    )
    assert size.tolist() == [5, 1, 1] and area == pytest.approx(18) and notes == []


@pytest.mark.parametrize(
    ("scene", "low"), [({}, 0), ({"scene": 0}, 0), ({"scene": 1}, 5), ({"scene": 1.0}, 5)]
)
def test_default_scene_is_read_and_others_are_noted(scene, low):
    file = cubes({"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}, **scene)
    file.tree["scenes"] = [{"nodes": [0]}, {"nodes": [1]}]
    found = bounds(file)
    assert (found[0][0], found[1][0]) == (low, low + 1)
    assert found[2] == [graph.OTHER_SCENES]


def test_without_scenes_all_nodes_are_read():
    file = cubes({"children": [1], "translation": [0, 1, 0]}, {"mesh": 0}, {"mesh": 0})
    del file.tree["scenes"]
    size, area, notes = gltf_files.extent(file.glb())
    assert size.tolist() == [1, 2, 1] and area == pytest.approx(12)
    assert notes == [graph.NO_SCENE]


def test_without_nodes_all_meshes_are_read():
    file = cubes()
    del file.tree["scenes"], file.tree["nodes"]
    file.mesh(file.primitive(gltf_files.CORNERS * np.float32(2), gltf_files.CUBE))
    size, area, notes = gltf_files.extent(file.glb())
    assert size.tolist() == [2, 2, 2] and area == pytest.approx(30)
    assert notes == [graph.NO_NODES]


def test_nodes_outside_of_the_scene_are_not_read():
    file = cubes({"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]})
    file.tree["scenes"] = [{"nodes": [0]}]
    assert gltf_files.extent(file.glb())[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("nodes", "roots"),
    [
        ([{"children": [0]}], [0]),
        ([{"children": [1]}, {"children": [2]}, {"children": [1], "mesh": 0}], [0]),
        ([{"children": [1]}, {"children": [0]}], None),
    ],
)
def test_cycle_of_nodes_is_an_error(nodes, roots):
    file = cubes(*nodes)
    file.tree["scenes"] = [] if roots is None else [{"nodes": roots}]
    assert gltf_files.error(file.glb()).startswith("nodes form a cycle")


def test_node_with_two_parents_is_read_for_each():
    file = cubes({"children": [2]}, {"children": [2], "translation": [4, 0, 0]}, {"mesh": 0})
    file.tree["scenes"] = [{"nodes": [0, 1]}]
    assert gltf_files.extent(file.glb())[0].tolist() == [5, 1, 1]


def test_nodes_that_multiply_are_limited():
    """Each of 40 levels names the next one twice, which makes 2^40 nodes."""
    nodes = [{"children": [i + 1, i + 1]} for i in range(40)]
    file = cubes(*nodes, {"mesh": 0})
    file.tree["scenes"] = [{"nodes": [0]}]
    assert gltf_files.error(file.glb()).startswith("too large: 200001 nodes")


def test_deep_chain_of_nodes_is_read():
    nodes = [{"children": [i + 1], "translation": [0, 0, 1]} for i in range(3000)]
    file = cubes(*nodes, {"mesh": 0})
    file.tree["scenes"] = [{"nodes": [0]}]
    assert bounds(file)[0].tolist() == [0, 0, 3000]


def instanced(node=None, **attributes):
    file = cubes()
    indices = {
        name: file.accessor(*array) if isinstance(array, tuple) else file.accessor(array)
        for name, array in attributes.items()
    }
    extension = {"EXT_mesh_gpu_instancing": {"attributes": indices}}
    file.tree["nodes"] = [{"mesh": 0, "extensions": extension, **(node or {})}]
    file.tree["scenes"] = [{"nodes": [0]}]
    file.tree["extensionsUsed"] = file.tree["extensionsRequired"] = ["EXT_mesh_gpu_instancing"]
    return file


def test_instances_are_placed_in_the_axes_of_their_node():
    places = np.float32([[0, 0, 0], [4, 0, 0], [8, 0, 0]])
    size, area, notes = gltf_files.extent(instanced({"scale": [1, 2, 1]}, TRANSLATION=places).glb())
    assert size.tolist() == [9, 2, 1] and notes == []
    assert area == pytest.approx(3 * (2 + 8))


def test_instances_are_scaled_turned_and_moved():
    file = instanced(
        TRANSLATION=np.float32([[0, 0, 0], [5, 0, 0]]),
        ROTATION=np.float32([[0, 0, 0, 1], [HALF, 0, 0, HALF]]),
        SCALE=np.float32([[1, 1, 1], [1, 2, 3]]),
    )
    low, high, _ = bounds(file)
    np.testing.assert_allclose([low, high], [[0, -3, 0], [6, 1, 2]], atol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_normalised_rotations_of_instances_are_read(kind):
    largest = np.iinfo(kind).max
    turns = np.round(np.array([[HALF, 0, 0, HALF]]) * largest).astype(kind)
    file = instanced(ROTATION=turns, SCALE=np.float32([[1, 2, 3]]))
    file.tree["accessors"][-2]["normalized"] = True
    low, high, _ = bounds(file)
    np.testing.assert_allclose([low, high], [[0, -3, 0], [1, 0, 2]], atol=1e-6)


def test_instances_of_different_lengths_are_an_error():
    file = instanced(TRANSLATION=np.zeros((2, 3), np.float32), SCALE=np.ones((3, 3), np.float32))
    assert gltf_files.error(file.glb()) == "attributes of instances have different lengths"


def test_faces_of_instances_are_counted_before_they_take_memory(monkeypatch):
    monkeypatch.setenv("MRD_MAX_FACES", "35")
    file = instanced(TRANSLATION=np.zeros((3, 3), np.float32))
    assert gltf_files.error(file.glb()).startswith("too large: 36 faces, at most 35")


def hidden(node, visible=False):
    return node | {"extensions": {"KHR_node_visibility": {"visible": visible}}}


def test_hidden_nodes_and_their_children_are_ignored():
    file = cubes(
        {"mesh": 0},
        hidden({"children": [2]}),
        {"mesh": 0, "translation": [5, 0, 0]},
        hidden({"mesh": 0, "translation": [2, 0, 0]}, visible=True),
    )
    file.tree["scenes"] = [{"nodes": [0, 1, 3]}]
    size, _, notes = gltf_files.extent(file.glb())
    assert size.tolist() == [3, 1, 1] and notes == [graph.HIDDEN]


def test_file_whose_nodes_are_all_hidden_is_read_as_visible():
    size, _, notes = gltf_files.extent(cubes(hidden({"mesh": 0})).glb())
    assert size.tolist() == [1, 1, 1] and notes == [graph.ALL_HIDDEN]


def test_coarser_levels_of_detail_are_not_read():
    levels = {"extensions": {"MSFT_lod": {"ids": [1]}}}
    file = cubes({"mesh": 0, **levels}, {"mesh": 0, "translation": [5, 0, 0]})
    size, _, notes = gltf_files.extent(file.glb())
    assert size.tolist() == [1, 1, 1] and notes == []


@pytest.mark.parametrize(("target", "notes"), [(0, [graph.ANIMATION]), (1, []), (None, [])])
def test_animation_of_what_is_seen_is_noted(target, notes):
    """The second node is not in the scene."""
    file = cubes({"mesh": 0}, {"mesh": 0})
    file.tree["scenes"] = [{"nodes": [0]}]
    channel = {
        "sampler": 0,
        "target": {"path": "scale"} | ({} if target is None else {"node": target}),
    }
    file.tree["animations"] = [{"channels": [channel], "samplers": []}]
    assert gltf_files.extent(file.glb())[2] == notes


def test_cameras_and_lights_are_no_parts():
    file = cubes({"mesh": 0}, {"camera": 0, "translation": [9, 9, 9]})
    light = {"KHR_lights_punctual": {"light": 0}}
    file.tree["nodes"].append({"extensions": light, "translation": [-9, 0, 0]})
    file.tree["scenes"] = [{"nodes": [0, 1, 2]}]
    file.tree["cameras"] = [{"type": "perspective"}]
    file.tree["extensionsUsed"] = ["KHR_lights_punctual"]
    size, _, notes = gltf_files.extent(file.glb())
    assert size.tolist() == [1, 1, 1] and notes == []
