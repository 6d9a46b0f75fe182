# SPDX-License-Identifier: Apache-2.0
"""glTF: primitives, skins and morph targets."""

import gltf_files
import numpy as np
import pytest

from data_prep.geometry import meshes
from data_prep.geometry.readers.gltf import primitives, reader

# A square of side 1 in the plane z = 0, as a ring.
RING = np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
IDENTITY = np.eye(4, dtype=np.float32)


def one(*args, **kwargs):
    """Returns a file with one primitive."""
    file = gltf_files.File()
    file.mesh(file.primitive(*args, **kwargs))
    return file


def corners(file):
    """Returns the triangles of the first part [faces, 3, 3], and the notes."""
    found, notes = gltf_files.scene(file.glb())
    return found.parts[0].triangles, notes


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32"])
def test_indices_name_the_corners(kind):
    triangles, notes = corners(one(RING, np.array([0, 1, 2, 0, 2, 3], kind)))
    np.testing.assert_array_equal(triangles, RING[[[0, 1, 2], [0, 2, 3]]])
    assert triangles.dtype == np.float64 and notes == []


@pytest.mark.parametrize("indices", [None, np.uint16([0, 1, 2, 3, 4])])
def test_modes_of_triangles(indices):
    positions = np.float32([[i, i % 2, i * i] for i in range(5)])
    expected = {
        primitives.STRIP: [[0, 1, 2], [1, 3, 2], [2, 3, 4]],
        primitives.FAN: [[0, 1, 2], [0, 2, 3], [0, 3, 4]],
        primitives.TRIANGLES: [[0, 1, 2]],
    }
    for mode, faces in expected.items():
        triangles, notes = corners(one(positions, indices, mode=mode))
        np.testing.assert_array_equal(triangles, positions[faces])
        assert notes == ([primitives.INCOMPLETE] if mode == primitives.TRIANGLES else [])


@pytest.mark.parametrize(
    ("mode", "faces"),
    [
        (primitives.STRIP, [[0, 1, 2], [1, 3, 2], [4, 5, 6]]),
        (primitives.FAN, [[0, 1, 2], [0, 2, 3], [4, 5, 6]]),
    ],
)
def test_largest_index_starts_a_new_strip(mode, faces):
    positions = np.float32([[i, i % 2, i * i] for i in range(7)])
    indices = np.uint8([0, 1, 2, 3, 255, 4, 5, 6])
    triangles, notes = corners(one(positions, indices, mode=mode))
    np.testing.assert_array_equal(triangles, positions[faces])
    assert notes == [primitives.RESTARTS]


@pytest.mark.parametrize("indices", [[0, 1, 4], [0, 1, 65535]])
def test_index_beyond_the_vertices_is_an_error(indices):
    message = gltf_files.error(one(RING, np.uint16(indices)).glb())
    assert message == f"a face names a vertex that does not exist: {indices[2]} of 4"


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_lines_are_noted(mode):
    file = gltf_files.File()
    file.mesh(file.primitive(), file.primitive(RING, mode=mode))
    size, _, notes = gltf_files.extent(file.glb())
    assert size.tolist() == [1, 2, 0] and notes == [primitives.LINES_IGNORED]
    message = gltf_files.error(one(RING, mode=mode).glb())
    assert message == f"no faces and no points; {primitives.LINES_IGNORED}"


def test_unknown_mode_is_an_error():
    assert gltf_files.error(one(mode=7).glb()) == "a primitive of an unknown mode: 7"


def test_primitive_without_positions_is_noted():
    file = gltf_files.File()
    file.mesh(file.primitive(), {"attributes": {}})
    assert gltf_files.extent(file.glb())[2] == [primitives.NO_POSITIONS]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.zeros((3, 2), np.float32), "positions of a wrong type, expected VEC3"),
        (np.float32([[0, 0, 0], [1, 0, 0], [np.nan, 1, 0]]), "non-finite coordinates"),
        (np.float32([[0, 0, 0], [1, 0, 0], [np.inf, 1, 0]]), "non-finite coordinates"),
    ],
)
def test_unusable_positions_are_an_error(positions, message):
    assert gltf_files.error(one(positions).glb()) == message


def test_vertices_that_no_face_names_may_be_nan():
    positions = np.float32([*gltf_files.TRIANGLE, [np.nan] * 3])
    assert gltf_files.extent(one(positions, np.uint8([0, 1, 2])).glb())[0].tolist() == [1, 2, 0]


def test_large_array_shared_by_primitives_is_read_by_its_indices():
    file = gltf_files.File()
    positions = np.zeros((1000, 3), np.float32)
    positions[:, 0] = np.arange(1000)
    positions[500, 1] = 7
    shared = file.accessor(positions)
    file.mesh(*(file.primitive(shared, np.uint16([i, 500, i + 1])) for i in (0, 10)))
    found, _ = gltf_files.scene(file.glb())
    want = [[0, 0, 0], [500, 7, 0], [1, 0, 0]]
    np.testing.assert_array_equal(found.parts[0].triangles[0], want)
    np.testing.assert_array_equal(found.parts[1].triangles[0, :, 0], [10, 500, 11])


@pytest.mark.parametrize(
    ("positions", "normalised", "size"),
    [
        (np.int16([[-32767, 0, 0], [32767, 0, 0], [0, 16384, 0]]), True, [2, 16384 / 32767, 0]),
        (np.uint8([[0, 0, 0], [255, 0, 0], [0, 51, 0]]), True, [1, 0.2, 0]),
        (np.int8([[-100, 0, 0], [100, 0, 0], [0, 50, 0]]), False, [200, 50, 0]),
        (np.uint16([[0, 0, 0], [60000, 0, 0], [0, 50, 0]]), False, [60000, 50, 0]),
    ],
)
def test_quantised_positions(positions, normalised, size):
    file = gltf_files.File()
    padded = np.zeros((3, 4), positions.dtype)
    padded[:, :3] = positions
    width = padded.itemsize * 4
    view = file.view(padded.tobytes(), byteStride=width)
    entry = {"bufferView": view, "count": 3, "type": "VEC3", "normalized": normalised}
    entry["componentType"] = gltf_files.COMPONENTS[str(positions.dtype)]
    file.tree["accessors"].append(entry)
    file.mesh(file.primitive(0))
    file.tree["extensionsUsed"] = file.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    found, _, notes = gltf_files.extent(file.glb())
    np.testing.assert_allclose(found, size, rtol=1e-6)
    assert notes == []


# Points.


def cloud(file):
    return meshes.load(file.glb(), file_type="glb", references=gltf_files.assets(), fill=0.4)


def test_points_have_the_product_of_factor_and_colours_in_srgb():
    linear = np.float32([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1], [0.214, 1, 1]])
    file = one(RING, attributes={"COLOR_0": linear}, mode=primitives.POINTS, material=0)
    file.tree["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [1, 1, 0.5, 0.1]}}]
    content = cloud(file)
    np.testing.assert_array_equal(content.xyz, RING)
    # sRGB of 0.5 is 188, of 0.214 is 127.
    want = [[255, 188, 0], [188, 255, 0], [0, 0, 188], [127, 255, 188]]
    np.testing.assert_allclose(content.rgb, want, atol=1)
    assert content.surface is None and content.notes == () and content.up_axis == "y"


def test_points_are_indexed_placed_and_instanced():
    file = one(RING, np.uint8([1, 3]), mode=primitives.POINTS)
    file.tree["nodes"] = [{"mesh": 0}, {"mesh": 0, "translation": [0, 0, 5]}]
    file.tree["scenes"] = [{"nodes": [0, 1]}]
    content = cloud(file)
    np.testing.assert_array_equal(content.xyz, [[1, 0, 0], [0, 1, 0], [1, 0, 5], [0, 1, 5]])
    assert (content.rgb == 255).all()


def test_points_beside_triangles_are_noted():
    file = gltf_files.File()
    file.mesh(file.primitive(), file.primitive(RING, mode=primitives.POINTS))
    assert cloud(file).notes == (meshes.POINTS_IGNORED,)


# Skins.


def skinned(joints, weights, *, nodes, inverse=None, positions=gltf_files.TRIANGLE, **more):
    """Returns a file with a skin; `nodes` are the joints, which are nodes 1, 2, ..."""
    attributes = {"JOINTS_0": joints, "WEIGHTS_0": weights, **more}
    file = one(positions, attributes=attributes)
    skin = {"joints": [*range(1, len(nodes) + 1)]}
    if inverse is not None:
        columns = np.float32(inverse).swapaxes(1, 2).reshape(-1, 16)
        skin["inverseBindMatrices"] = file.accessor(columns)
    file.tree["skins"] = [skin]
    file.tree["nodes"] = [{"mesh": 0, "skin": 0}, *nodes]
    file.tree["scenes"] = [{"nodes": [0, *range(1, len(nodes) + 1)]}]
    return file


def four(*rows, kind=np.uint8):
    """Returns rows of four numbers."""
    return np.array([list(row) + [0] * (4 - len(row)) for row in rows], kind)


FIRST, SECOND = (1, 0), (0, 1)
MOVED = {"translation": [10, 0, 0]}


def test_each_vertex_follows_its_joints():
    weights = four((1,), (0.5, 0.5), (0, 1), kind=np.float32)
    file = skinned(four((0, 1), (0, 1), (0, 1)), weights, nodes=[{}, MOVED])
    triangles, notes = corners(file)
    np.testing.assert_allclose(triangles[0], [[0, 0, 0], [6, 0, 0], [10, 2, 0]])
    assert notes == []


def test_inverse_bind_matrices_apply_before_the_joints():
    inverse = IDENTITY.copy()
    inverse[:3, 3] = [-1, 0, 0]
    joints, weights = four((0,), (0,), (0,)), four((1,), (1,), (1,), kind=np.float32)
    node = {"scale": [2, 2, 2], "translation": [5, 0, 0]}
    triangles, _ = corners(skinned(joints, weights, nodes=[node], inverse=[inverse]))
    np.testing.assert_allclose(triangles[0], 2 * (gltf_files.TRIANGLE - [1, 0, 0]) + [5, 0, 0])


def test_transform_of_the_skinned_node_is_ignored_and_of_the_parent_of_a_joint_is_not():
    joints, weights = four((0,), (0,), (0,)), four((1,), (1,), (1,), kind=np.float32)
    file = skinned(joints, weights, nodes=[{"translation": [0, 3, 0]}])
    file.tree["nodes"][0]["translation"] = [50, 50, 50]
    file.tree["nodes"].append({"children": [1], "scale": [2, 2, 2]})
    file.tree["scenes"] = [{"nodes": [0, 2]}]
    triangles, _ = corners(file)
    np.testing.assert_allclose(triangles[0], 2 * (gltf_files.TRIANGLE + [0, 3, 0]))


@pytest.mark.parametrize(
    "weights",
    [
        four((3, 1), (3, 1), (3, 1), kind=np.float32),
        four((192, 64), (192, 64), (192, 64)),
        four((49152, 16384), (49152, 16384), (49152, 16384), kind=np.uint16),
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_weights_are_scaled_to_a_sum_of_one(weights, kind):
    joints = four((0, 1), (0, 1), (0, 1), kind=kind)
    file = skinned(joints, weights, nodes=[{}, MOVED])
    if weights.dtype.kind == "u":
        index = file.tree["meshes"][0]["primitives"][0]["attributes"]["WEIGHTS_0"]
        file.tree["accessors"][index]["normalized"] = True
    triangles, _ = corners(file)
    np.testing.assert_allclose(triangles[0], gltf_files.TRIANGLE + [2.5, 0, 0], atol=1e-6)


def test_more_than_four_joints_per_vertex():
    none = four((), (), ())
    file = skinned(
        none,
        four((0.5,), (0.5,), (0.5,), kind=np.float32),
        JOINTS_1=four((1,), (1,), (1,)),
        WEIGHTS_1=four((0.5,), (0.5,), (0.5,), kind=np.float32),
        nodes=[{}, MOVED],
    )
    triangles, _ = corners(file)
    np.testing.assert_allclose(triangles[0], gltf_files.TRIANGLE + [5, 0, 0])


def test_joint_of_weight_zero_need_not_exist():
    joints, weights = four((0, 99), (0, 99), (0, 99)), four(*[(1,)] * 3, kind=np.float32)
    triangles, _ = corners(skinned(joints, weights, nodes=[MOVED]))
    np.testing.assert_allclose(triangles[0], gltf_files.TRIANGLE + [10, 0, 0])


def test_vertex_without_weights_follows_its_first_joint():
    joints, weights = four((0,), (0,), (0,)), np.zeros((3, 4), np.float32)
    triangles, _ = corners(skinned(joints, weights, nodes=[MOVED]))
    np.testing.assert_allclose(triangles[0], gltf_files.TRIANGLE + [10, 0, 0])


def test_skinned_mesh_of_two_nodes_is_read_once():
    joints, weights = four((0,), (0,), (0,)), four(*[(1,)] * 3, kind=np.float32)
    file = skinned(joints, weights, nodes=[MOVED])
    file.tree["nodes"].append({"mesh": 0, "skin": 0, "translation": [1, 1, 1]})
    file.tree["scenes"] = [{"nodes": [0, 1, 2]}]
    assert gltf_files.extent(file.glb())[1] == pytest.approx(1)


def test_skin_on_vertices_without_joints_is_noted():
    file = one()
    file.tree["skins"] = [{"joints": [0]}]
    file.tree["nodes"] = [{"mesh": 0, "skin": 0, "scale": [2, 1, 1]}]
    size, _, notes = gltf_files.extent(file.glb())
    assert size.tolist() == [2, 2, 0] and notes == [reader.UNSKINNED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": four((5,), (0,), (0,))}, "a vertex names a joint that does not exist: 5"),
        ({"joints": four((0,), (0,))}, "joints and weights of a skin do not match"),
        ({"nodes": []}, "a skin without joints"),
        ({"inverse": [IDENTITY]}, "a skin with fewer inverse bind matrices than joints"),
    ],
)
def test_inconsistent_skin_is_an_error(change, message):
    options = {"joints": four((0,), (1,), (0,)), "weights": four(*[(1,)] * 3, kind=np.float32)}
    options |= {"nodes": [{}, MOVED]} | change
    assert gltf_files.error(skinned(**options).glb()) == message


# Morph targets.

LIFT, SHIFT = np.float32([[0, 0, 0], [0, 0, 0], [0, 3, 0]]), np.float32([[5, 0, 0]] * 3)


@pytest.mark.parametrize(
    ("of_mesh", "of_node", "moved"),
    [
        (None, None, [0, 2, 0]),
        ([0, 0], None, [0, 2, 0]),
        ([1, 0], None, [0, 5, 0]),
        ([1], None, [0, 5, 0]),
        ([0.5, 1], None, [5, 3.5, 0]),
        ([1, 1], [0, 0], [0, 2, 0]),
        (None, [0, -1], [-5, 2, 0]),
    ],
)
def test_weights_of_the_node_replace_those_of_the_mesh(of_mesh, of_node, moved):
    file = gltf_files.File()
    targets = [{"POSITION": file.accessor(LIFT)}, {"POSITION": file.accessor(SHIFT)}]
    file.mesh(file.primitive(targets=targets), **({"weights": of_mesh} if of_mesh else {}))
    if of_node:
        file.tree["nodes"][0]["weights"] = of_node
    triangles, notes = corners(file)
    np.testing.assert_allclose(triangles[0, 2], moved)
    assert notes == []


def test_morph_target_may_be_quantised():
    file = gltf_files.File()
    target = file.accessor(np.int8([[0, 0, 0, 0], [0, 0, 0, 0], [0, 127, 0, 0]]), normalized=True)
    file.tree["accessors"][target] |= {"type": "VEC3"}
    file.tree["bufferViews"][-1]["byteStride"] = 4
    file.mesh(file.primitive(targets=[{"POSITION": target}]), weights=[1])
    np.testing.assert_allclose(corners(file)[0][0, 2], [0, 3, 0])


def test_morph_targets_apply_before_the_skin():
    joints, weights = four((0,), (0,), (0,)), four(*[(1,)] * 3, kind=np.float32)
    file = skinned(joints, weights, nodes=[{"scale": [2, 2, 2]}])
    mesh = file.tree["meshes"][0]
    mesh["primitives"][0]["targets"] = [{"POSITION": file.accessor(SHIFT)}]
    mesh["weights"] = [1]
    triangles, _ = corners(file)
    np.testing.assert_allclose(triangles[0], 2 * (gltf_files.TRIANGLE + [5, 0, 0]))


def test_morph_targets_change_colours():
    file = gltf_files.File()
    black, red = np.zeros((3, 3), np.float32), np.float32([[1, 0, 0]] * 3)
    targets = [{"COLOR_0": file.accessor(red)}]
    file.mesh(file.primitive(attributes={"COLOR_0": black}, targets=targets), weights=[1])
    assert (gltf_files.colours(file.glb()) == [255, 0, 0]).all()


def test_morph_target_of_a_wrong_length_is_an_error():
    file = gltf_files.File()
    targets = [{"POSITION": file.accessor(RING)}]
    file.mesh(file.primitive(targets=targets), weights=[1])
    assert gltf_files.error(file.glb()) == "a morph target of a wrong length: POSITION"
