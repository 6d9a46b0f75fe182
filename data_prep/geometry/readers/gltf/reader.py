# SPDX-License-Identifier: Apache-2.0
"""Reads glTF files into the parts of a scene."""

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers.gltf import (
    extensions,
    fields,
    materials,
    points,
    primitives,
    skins,
)
from data_prep.geometry.readers.gltf.document import Document, open_document
from data_prep.geometry.readers.gltf.graph import Graph, Placement
from data_prep.geometry.readers.gltf.primitives import Primitive

# This writer keeps the axes of CAD models, z up, unless the program that uses it asks for a
# conversion, and the file does not tell which.
Z_UP_GENERATOR = "Open CASCADE"
UNSKINNED = "a skin on vertices without joints, ignored"


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads the default scene of a glTF file, in the pose at rest.

    Args:
      data: bytes of the file.
      assets: reads buffers and textures, and collects the notes.
      file_type: unused; the content tells binary and text apart.

    Returns:
      One part per primitive of a mesh, with all its instances.

    Raises:
      scene.MeshError: the file is malformed, or needs an extension that is not read.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    document = open_document(data, assets=assets)
    extensions.check(document.tree, notes=assets.notes)
    if str(fields.get_object(document.tree, "asset").get("generator")).startswith(Z_UP_GENERATOR):
        assets.notes.append(scene.MAY_BE_Z_UP)
    builder = _Builder(document)
    # Corners that are not finite are dropped with a note when the parts are joined.
    with np.errstate(invalid="ignore", over="ignore"):
        for placement in builder.graph.placements():
            builder.add(placement)
    return scene.Scene(tuple(builder.parts), tuple(builder.points), up_axis="y")


class _Builder:
    """Collects parts and points, and counts them before they take memory."""

    def __init__(self, document: Document):
        self.graph = Graph(document)
        self.parts: list[scene.Part] = []
        self.points: list[scene.Points] = []
        self._document = document
        self._joints: dict[int, np.ndarray] = {}
        counted = (limits.FACES, limits.VERTICES, limits.POINTS, limits.PARTS)
        self._counts = dict.fromkeys(counted, 0)
        self._largest = {limit: limit.maximum() for limit in counted}

    def add(self, placement: Placement) -> None:
        """Adds all primitives of a mesh."""
        mesh = fields.get_item(self._document.tree, "meshes", placement.mesh)
        weights = skins.morph_weights(mesh, placement.weights)
        is_skinned = placement.skin is not None
        for tree in fields.get_objects(mesh, "primitives"):
            self._count(limits.PARTS, 1)
            primitive = primitives.read(self._document, tree, skinned=is_skinned)
            if primitive is None or not len(primitive.faces):
                continue
            count = len(placement.matrices)
            corners = primitive.faces.size
            if primitive.is_points:
                self._count(limits.POINTS, count * corners)
                self._add_points(primitive, placement, weights)
            else:
                self._count(limits.FACES, count * len(primitive.faces))
                self._count(limits.VERTICES, count * min(corners, len(primitive.positions)))
                self._add_part(primitive, placement, weights)

    def _count(self, limit: limits.Limit, count: int) -> None:
        self._counts[limit] += count
        if self._counts[limit] > self._largest[limit]:
            limit.check(self._counts[limit])

    def _add_part(
        self, primitive: Primitive, placement: Placement, weights: tuple[float, ...]
    ) -> None:
        positions, faces, attributes = self._morphed(primitive, weights)
        triangles = self._placed(positions, attributes, placement)[:, faces]
        count = len(triangles)
        appearance = materials.appearance(
            self._document, primitive.tree, faces=faces, attributes=attributes
        )
        for name in ("uv", "colours"):
            if count > 1 and appearance.get(name) is not None:
                appearance[name] = np.tile(appearance[name], (count, 1, 1))
        self.parts.append(scene.Part(triangles.reshape(-1, 3, 3), **appearance))

    def _add_points(
        self, primitive: Primitive, placement: Placement, weights: tuple[float, ...]
    ) -> None:
        positions, faces, attributes = self._morphed(primitive, weights)
        xyz = self._placed(positions, attributes, placement)[:, faces]
        rgb = points.colours(self._document, primitive.tree, indices=faces, attributes=attributes)
        rgb = None if rgb is None else np.tile(rgb, (len(xyz), 1))
        self.points.append(scene.Points(xyz.reshape(-1, 3), rgb))

    def _morphed(
        self, primitive: Primitive, weights: tuple[float, ...]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Returns positions, faces and attributes with the morph targets applied."""
        values = {"POSITION": primitive.positions, **primitive.attributes}
        targets = fields.get_objects(primitive.tree, "targets")
        if any(weights) and targets:
            for name, array in values.items():
                values[name] = skins.morph(
                    self._document, array, name=name, targets=targets, weights=weights
                )
        faces = primitive.faces
        if len(primitive.positions) > 2 * faces.size:
            # Some exporters write one array of vertices for many primitives.
            values = {name: array[faces.ravel()] for name, array in values.items()}
            faces = np.arange(faces.size).reshape(faces.shape)
        return values.pop("POSITION"), faces, values

    def _placed(
        self, positions: np.ndarray, attributes: dict[str, np.ndarray], placement: Placement
    ) -> np.ndarray:
        """Returns the positions in the scene, float64 [instances, vertices, 3]."""
        positions = positions.astype(np.float64)
        if placement.skin is not None:
            skinned = self._skinned(positions, attributes, placement.skin)
            if skinned is not None:
                return skinned[None]
            self._document.assets.notes.append(UNSKINNED)
        matrices = placement.matrices
        turned = positions @ matrices[:, :3, :3].swapaxes(1, 2)
        return turned + matrices[:, None, :3, 3]

    def _skinned(
        self, positions: np.ndarray, attributes: dict[str, np.ndarray], skin: int
    ) -> np.ndarray | None:
        """Returns skinned positions; None if the vertices have no joints."""
        joints = [attributes[n] for n in sorted(attributes) if n.startswith("JOINTS_")]
        weights = [attributes[n] for n in sorted(attributes) if n.startswith("WEIGHTS_")]
        if not joints or not weights:
            return None
        if skin not in self._joints:
            self._joints[skin] = skins.joint_matrices(self._document, self.graph, skin)
        return skins.skin_positions(
            positions,
            joints=np.concatenate(joints, axis=1),
            weights=np.concatenate(weights, axis=1),
            matrices=self._joints[skin],
        )
