# SPDX-License-Identifier: Apache-2.0
"""Reads the scene of a COLLADA file."""

from xml.etree.ElementTree import Element

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import colouring
from data_prep.geometry.readers.collada import (
    document,
    graph,
    materials,
    primitives,
    skins,
    sources,
)
from data_prep.geometry.readers.collada.document import Document

# From x up, y to the left, to y up, x to the right.
_X_UP_TO_Y_UP = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads the default scene of a file; lengths stay in the unit of the file.

    Args:
      data: bytes of the file.
      assets: reads textures, and collects the notes.
      file_type: unused.

    Raises:
      scene.MeshError: the file is corrupt.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    doc = document.parse(data, assets=assets)
    axis = (doc.root.findtext("asset/up_axis") or "").strip().upper()
    parts = _Reader(doc).read()
    if axis == "X_UP":
        assets.notes.append("x up, turned to y up")
        parts = [_rotated(part, _X_UP_TO_Y_UP) for part in parts]
    up = {"X_UP": "y", "Y_UP": "y", "Z_UP": "z"}.get(axis)
    return scene.Scene(tuple(parts), up_axis=up)


def _rotated(part: scene.Part, rotation: np.ndarray) -> scene.Part:
    return scene.Part(
        part.triangles @ rotation.T,
        **{name: getattr(part, name) for name in ("uv", "texture", "colours", "opacity")},
    )


class _Reader:
    """Reads the parts of a document; geometries and materials are read once."""

    def __init__(self, doc: Document):
        self._doc = doc
        self._notes = doc.assets.notes
        self._roots = self._scene_nodes()
        self._worlds: dict[Element, np.ndarray] | None = None
        self._primitives: dict[Element, list[primitives.Primitive]] = {}
        self._materials: dict[Element, materials.Material] = {}
        self._is_inverted = materials.is_inverted(doc)
        self._faces = 0

    def read(self) -> list[scene.Part]:
        """Returns the parts of the scene."""
        parts = []
        for placed in graph.instances(self._roots, doc=self._doc):
            if placed.element.tag == "instance_geometry":
                geometry = self._doc.target(placed.element.get("url"), kind="geometry")
                found = [] if geometry is None else self._read_geometry(geometry)
                points = {p.positions: primitives.positions(p, doc=self._doc) for p in found}
                transform = placed.transform
            else:
                found, points, transform = self._read_controller(placed)
            for primitive in found:
                parts.append(self._part(primitive, points, transform, placed.element))
                limits.PARTS.check(len(parts))
        return parts

    def _scene_nodes(self) -> list[Element]:
        """Returns the top nodes of the default scene, or else of the first one."""
        doc = self._doc
        instance = doc.root.find("scene/instance_visual_scene")
        found = None
        if instance is not None:
            found = doc.target(instance.get("url"), kind="scene")
        if found is None:
            found = doc.root.find("library_visual_scenes/visual_scene")
        if found is not None:
            return found.findall("node")
        geometries = doc.root.findall("library_geometries/geometry")
        if geometries:
            self._notes.append("no scene; all meshes are read without transforms")
        node = Element("node")
        for geometry in geometries:
            node.append(Element("instance_geometry", url=f"#{geometry.get('id')}"))
        return [node]

    def _read_geometry(self, geometry: Element) -> list[primitives.Primitive]:
        """Returns the primitives of a geometry."""
        if geometry not in self._primitives:
            mesh = geometry.find("mesh")
            if mesh is None:
                self._notes.append("geometry that is not a polygon mesh, ignored")
            found = [] if mesh is None else primitives.read_mesh(mesh, doc=self._doc)
            self._primitives[geometry] = found
        return self._primitives[geometry]

    def _read_controller(self, placed: graph.Placed):
        """Returns primitives, their deformed positions, and the transform of a controller."""
        controller = self._doc.target(placed.element.get("url"), kind="controller")
        skin, geometry, points = None, controller, {}
        morphs = []
        for _ in range(limits.DEPTH.maximum()):  # a skin of a morph of a geometry
            if geometry is None or geometry.tag != "controller":
                break
            inner = next((e for e in geometry if e.tag in ("skin", "morph")), None)
            if inner is None:
                geometry = None
                break
            skin = inner if inner.tag == "skin" and skin is None else skin
            morphs += [inner] if inner.tag == "morph" else []
            geometry = self._doc.target(inner.get("source"), kind="geometry")
        if geometry is None or geometry.tag != "geometry":
            self._notes.append("controller without a mesh, ignored")
            return [], {}, placed.transform
        found = self._read_geometry(geometry)
        points = {p.positions: primitives.positions(p, doc=self._doc) for p in found}
        if morphs:
            points = self._morphed(morphs[-1], points)
        if skin is None:
            return found, points, placed.transform
        joints = self._joints(skin, placed.element)
        if joints is None:
            self._notes.append("skin with joints that are missing, taken in its bind pose")
            shape = skins.bind_shape(skin)
            return found, points, placed.transform @ shape
        points = {
            name: skins.skinned(skin, values, joints, doc=self._doc)
            for name, values in points.items()
        }
        return found, points, np.eye(4)

    def _morphed(self, morph: Element, points: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Applies the morph targets of a mesh with one array of positions."""
        holder = morph.find("targets")
        names = []
        if holder is not None:
            names = sources.read_names(skins.input_source(holder, "MORPH_TARGET"), doc=self._doc)
        targets = []
        for name in names:
            geometry = self._doc.elements.get(name)
            found = [] if geometry is None else self._read_geometry(geometry)
            targets.append(
                primitives.positions(found[0], doc=self._doc) if found else np.zeros((0, 3))
            )
        return {
            name: skins.morphed(morph, values, targets, doc=self._doc)
            for name, values in points.items()
        }

    def _joints(self, skin: Element, instance: Element) -> list[np.ndarray] | None:
        """Returns the transforms of the joints of a skin; None if one is missing."""
        holder = skin.find("joints")
        names = []
        if holder is not None:
            names = sources.read_names(skins.input_source(holder, "JOINT"), doc=self._doc)
        if self._worlds is None:
            self._worlds = graph.world_transforms(self._roots)
        tops = [
            self._doc.elements.get((e.text or "").strip().removeprefix("#"))
            for e in instance.findall("skeleton")
        ]
        places = [top for top in tops if top is not None] or self._roots
        found: dict[str, np.ndarray] = {}
        for key in ("sid", "id", "name"):
            for top in [*places, *self._roots]:
                for node in top.iter("node"):
                    if node in self._worlds and node.get(key):
                        found.setdefault(node.get(key), self._worlds[node])
        if not names or not all(name in found for name in names):
            return None
        return [found[name] for name in names]

    def _part(
        self,
        primitive: primitives.Primitive,
        points: dict[str, np.ndarray],
        transform: np.ndarray,
        instance: Element,
    ) -> scene.Part:
        """Returns a primitive at its place, with its material."""
        self._faces += len(primitive.vertices)
        limits.FACES.check(self._faces)
        placed = points[primitive.positions] @ transform[:3, :3].T + transform[:3, 3]
        material, channels = self._material(primitive.symbol, instance)
        texture, uv = material.texture, None
        if texture is not None:
            number = channels.get(material.channel)
            uv = primitive.uv.get(number) if number is not None else None
            uv = uv if uv is not None else next(iter(_sorted(primitive.uv)), None)
            if uv is None:
                self._notes.append("texture without texture coordinates, ignored")
                texture = None
        colours = primitive.colours
        if texture is not None and colours is not None:
            if (colours[..., :3] < 1).any():
                self._notes.append(colouring.BESIDE_TEXTURE)
            colours = None
        if colours is not None and material.colour is not None and (colours[..., :3] == 1).all():
            colours = None  # of programs that write colours for every mesh
        if texture is None and colours is None and material.colour is not None:
            texture = scene.plain(*material.colour)
        return scene.Part(
            placed[primitive.vertices], uv, texture, colours, opacity=material.opacity
        )

    def _material(
        self, symbol: str | None, instance: Element
    ) -> tuple[materials.Material, dict[str, int]]:
        """Returns the material of a symbol, and the sets that it gives to its channels."""
        target, channels = None, {}
        bindings = instance.findall("bind_material/technique_common/instance_material")
        for bound in bindings:
            # A primitive may leave its symbol out if there is one material.
            if bound.get("symbol") == symbol or (not symbol and len(bindings) == 1):
                target = self._doc.target(bound.get("target"), kind="material")
                for element in bound.findall("bind_vertex_input"):
                    number = element.get("input_set", "0")
                    if element.get("input_semantic") == "TEXCOORD" and number.isdigit():
                        channels[element.get("semantic", "")] = int(number)
                break
        if target is None and symbol:
            # Some programs write the name of the material, and bind nothing.
            target = self._doc.elements.get(symbol)
        if target is None or target.tag != "material":
            return materials.Material(), channels
        if target not in self._materials:
            self._materials[target] = materials.read(
                target, doc=self._doc, inverted=self._is_inverted
            )
        return self._materials[target], channels


def _sorted(uv: dict[int, np.ndarray]) -> list[np.ndarray]:
    return [uv[number] for number in sorted(uv)]
