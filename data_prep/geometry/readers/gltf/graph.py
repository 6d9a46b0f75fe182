# SPDX-License-Identifier: Apache-2.0
"""Nodes of a glTF scene: which meshes are drawn, and where."""

import dataclasses
from typing import Any

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.readers.gltf import fields
from data_prep.geometry.readers.gltf.document import Document
from data_prep.geometry.scene import MeshError

OTHER_SCENES = "other scenes, ignored"
NO_SCENE = "no scene, all nodes are read"
NO_NODES = "no scene and no nodes, all meshes are read"
HIDDEN = "hidden nodes, ignored"
ALL_HIDDEN = "all nodes are hidden, read as visible"
ANIMATION = "animation, the pose at rest is read"
INSTANCED_SKIN = "instances of a skinned mesh, ignored"
INSTANCE_COLOURS = "colours of instances, ignored"
_INSTANCING = "EXT_mesh_gpu_instancing"
_IDENTITY = np.eye(4)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Mesh and all its places in the scene.

    Attributes:
      mesh: index of the mesh.
      skin: index of the skin, or None.
      weights: weights of the morph targets; None for those of the mesh.
      matrices: float64 [instances, 4, 4], for column vectors, from the mesh to the scene.
    """

    mesh: int
    skin: int | None
    weights: tuple[float, ...] | None
    matrices: np.ndarray


class Graph:
    """Nodes and their transforms."""

    def __init__(self, document: Document):
        """Reads the nodes.

        Raises:
          limits.LimitError: there are too many nodes.
          MeshError: a node is malformed.
        """
        self._document = document
        self._nodes = fields.get_objects(document.tree, "nodes")
        limits.NODES.check(len(self._nodes))
        self._children = [fields.get_indices(node, "children") for node in self._nodes]
        limits.NODES.check(sum(map(len, self._children)))
        self._parents: dict[int, int] = {}
        for parent, children in enumerate(self._children):
            for child in children:
                self._check_exists(child)
                self._parents.setdefault(child, parent)
        self._locals: dict[int, np.ndarray] = {}
        self._globals: dict[int, np.ndarray] = {}

    def placements(self) -> list[Placement]:
        """Returns the meshes of the default scene; notes what is ignored.

        Raises:
          MeshError: a node is malformed, or nodes form a cycle.
          limits.LimitError: there are too many nodes or instances.
        """
        notes = self._document.assets.notes
        roots = self._roots()
        if roots is None:
            meshes = range(len(fields.get_list(self._document.tree, "meshes")))
            if meshes:
                notes.append(NO_NODES)
            return [Placement(mesh, None, None, _IDENTITY[None]) for mesh in meshes]
        drawn, hidden = self._walk(roots)
        if hidden and not drawn:
            notes.append(ALL_HIDDEN)
            drawn = hidden
        elif hidden:
            notes.append(HIDDEN)
        return self._group(drawn)

    def global_matrix(self, index: int) -> np.ndarray:
        """Returns the transform of a node to the scene, float64 [4, 4], for column vectors."""
        self._check_exists(index)
        chain = []
        while index not in self._globals:
            chain.append(index)
            if len(chain) > len(self._nodes):
                raise MeshError("nodes form a cycle")
            if index not in self._parents:
                break
            index = self._parents[index]
        matrix = self._globals.get(index, _IDENTITY)
        for node in reversed(chain):
            matrix = self._globals[node] = matrix @ self._local_matrix(node)
        return matrix

    def _check_exists(self, index: int) -> None:
        if index >= len(self._nodes):
            raise MeshError(f"names a node that does not exist: {index}")

    def _local_matrix(self, index: int) -> np.ndarray:
        if index not in self._locals:
            self._locals[index] = local_matrix(self._nodes[index])
        return self._locals[index]

    def _roots(self) -> list[int] | None:
        """Returns the roots of the default scene; None if the file has meshes but no nodes."""
        tree, notes = self._document.tree, self._document.assets.notes
        scenes = fields.get_objects(tree, "scenes")
        if scenes:
            scene = fields.get_item(tree, "scenes", fields.get_index(tree, "scene", 0))
            if len(scenes) > 1:
                notes.append(OTHER_SCENES)
            return fields.get_indices(scene, "nodes")
        if not self._nodes:
            return None
        notes.append(NO_SCENE)
        roots = [node for node in range(len(self._nodes)) if node not in self._parents]
        if not roots:
            raise MeshError("nodes form a cycle")
        return roots

    def _walk(self, roots: list[int]) -> tuple[list, list]:
        """Returns nodes with meshes and their transforms: those that are drawn, those hidden."""
        coarse = self._lower_levels()
        animated = self._animated_nodes()
        drawn, hidden = [], []
        visits, is_animated = 0, False
        most_visits, most_levels = limits.NODES.maximum(), limits.DEPTH.maximum()
        stack = [(root, _IDENTITY, True, 1) for root in reversed(roots)]
        while stack:
            index, parent, is_visible, level = stack.pop()
            self._check_exists(index)
            if index in coarse:
                continue
            if level > len(self._nodes):
                raise MeshError("nodes form a cycle")
            if level > most_levels:
                limits.DEPTH.check(level)
            # A node with several parents, which the standard forbids, is read once for each.
            visits += 1
            if visits > most_visits:
                limits.NODES.check(visits)
            is_animated |= index in animated
            node = self._nodes[index]
            is_visible = is_visible and _is_visible(node)
            matrix = parent @ self._local_matrix(index)
            if node.get("mesh") is not None:
                (drawn if is_visible else hidden).append((index, matrix))
            children = self._children[index]
            stack += [(child, matrix, is_visible, level + 1) for child in reversed(children)]
        if is_animated:
            self._document.assets.notes.append(ANIMATION)
        return drawn, hidden

    def _lower_levels(self) -> set[int]:
        """Returns the nodes that replace another one at a distance, by MSFT_lod."""
        levels = [fields.get_extension(node, "MSFT_lod") for node in self._nodes]
        return {index for level in levels if level for index in fields.get_indices(level, "ids")}

    def _animated_nodes(self) -> set[int]:
        targets = set()
        for animation in fields.get_objects(self._document.tree, "animations"):
            for channel in fields.get_objects(animation, "channels"):
                node = fields.get_index(fields.get_object(channel, "target"), "node")
                targets.add(node)
        return targets

    def _group(self, drawn: list[tuple[int, np.ndarray]]) -> list[Placement]:
        """Groups nodes that draw the same mesh with the same skin and weights."""
        groups: dict[tuple, list[np.ndarray]] = {}
        instances = 0
        for index, matrix in drawn:
            node = self._nodes[index]
            skin = fields.get_index(node, "skin")
            count = len(fields.get_list(node, "weights"))
            weights = fields.get_numbers(node, "weights", (0.0,) * count) if count else None
            matrices = self._instances(node, matrix, is_skinned=skin is not None)
            instances += len(matrices)
            limits.NODES.check(instances)
            groups.setdefault((fields.get_index(node, "mesh"), skin, weights), []).append(matrices)
        return [Placement(*key, np.concatenate(parts)) for key, parts in groups.items()]

    def _instances(
        self, node: dict[str, Any], matrix: np.ndarray, *, is_skinned: bool
    ) -> np.ndarray:
        """Returns the transforms of a node's mesh, [instances, 4, 4]."""
        extension = fields.get_extension(node, _INSTANCING)
        attributes = fields.get_object(extension or {}, "attributes")
        if not attributes:
            return matrix[None]
        notes = self._document.assets.notes
        if is_skinned:
            notes.append(INSTANCED_SKIN)
            return matrix[None]
        if any(name.lstrip("_").startswith("COLOR") for name in attributes):
            notes.append(INSTANCE_COLOURS)
        arrays = {}
        for name, width in (("TRANSLATION", 3), ("ROTATION", 4), ("SCALE", 3)):
            accessor = fields.get_index(attributes, name)
            if accessor is not None:
                arrays[name] = self._document.accessor(accessor)
                if arrays[name].shape[1:] != (width,):
                    raise MeshError(f"instances of a wrong type, expected VEC{width}: {name}")
        counts = {len(array) for array in arrays.values()}
        if len(counts) > 1:
            raise MeshError("attributes of instances have different lengths")
        if not counts:
            return matrix[None]
        limits.NODES.check(max(counts))
        return matrix @ _matrices(arrays, count=counts.pop())


def local_matrix(node: dict[str, Any]) -> np.ndarray:
    """Returns the transform of a node to its parent, float64 [4, 4], for column vectors."""
    if node.get("matrix") is not None:
        return np.array(fields.get_numbers(node, "matrix", (0.0,) * 16)).reshape(4, 4).T
    if not ("translation" in node or "rotation" in node or "scale" in node):
        return _IDENTITY
    arrays = {
        "TRANSLATION": np.array([fields.get_numbers(node, "translation", (0.0,) * 3)]),
        "ROTATION": np.array([fields.get_numbers(node, "rotation", (0.0, 0.0, 0.0, 1.0))]),
        "SCALE": np.array([fields.get_numbers(node, "scale", (1.0,) * 3)]),
    }
    return _matrices(arrays, count=1)[0]


def _matrices(arrays: dict[str, np.ndarray], *, count: int) -> np.ndarray:
    """Composes transforms [count, 4, 4] of translations, quaternions (x, y, z, w) and scales."""
    matrices = np.tile(_IDENTITY, (count, 1, 1))
    if "ROTATION" in arrays:
        quaternions = arrays["ROTATION"].astype(np.float64)
        length = np.linalg.norm(quaternions, axis=1, keepdims=True)
        # A quaternion of zeros means no rotation.
        unit = quaternions / np.where(length > 0, length, 1)
        quaternions = np.where(length > 0, unit, [0, 0, 0, 1])
        x, y, z, w = quaternions.T
        rows = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        matrices[:, :3, :3] = np.moveaxis(np.array(rows), -1, 0)
    if "SCALE" in arrays:
        matrices[:, :3, :3] *= arrays["SCALE"].astype(np.float64)[:, None]
    if "TRANSLATION" in arrays:
        matrices[:, :3, 3] = arrays["TRANSLATION"]
    return matrices


def _is_visible(node: dict[str, Any]) -> bool:
    return fields.get_flag(fields.get_extension(node, "KHR_node_visibility") or {}, "visible", True)
