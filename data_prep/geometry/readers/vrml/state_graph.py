# SPDX-License-Identifier: Apache-2.0
"""Shapes of VRML 1.0, in which properties hold for the nodes after them."""

import collections
import dataclasses

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers.vrml import faces, scene_graph, solids, transforms
from data_prep.geometry.readers.vrml.nodes import Node

_SEPARATORS = ("Separator", "WWWAnchor", "LOD", "TransformSeparator")
_IGNORED = ("IndexedLineSet", "AsciiText", "WWWInline")
_NO_POINTS = np.zeros((0, 3))


@dataclasses.dataclass(frozen=True)
class _State:
    """Properties that hold at a place of the graph.

    Attributes:
      transform: float64 [4, 4].
      points: [points, 3] of the last node Coordinate3.
      material: last node Material, or None.
      binding: value of the last node MaterialBinding.
      texture: last node Texture2, or None.
      uv: [points, 2] of the last node TextureCoordinate2.
      ccw: whether faces are counter-clockwise.
    """

    transform: np.ndarray = dataclasses.field(default_factory=lambda: np.eye(4))
    points: np.ndarray = dataclasses.field(default_factory=lambda: _NO_POINTS)
    material: Node | None = None
    binding: str = "DEFAULT"
    texture: Node | None = None
    uv: np.ndarray | None = None
    ccw: bool = True


class Builder:
    """Collects the parts and points of a scene.

    Attributes:
      parts: parts found so far.
      points: sets of points found so far.
    """

    def __init__(self, assets: Assets):
        self.parts: list[scene.Part] = []
        self.points: list[scene.Points] = []
        self._assets = assets
        self._textures: dict[Node, scene.Texture | None] = {}
        self._faces = 0
        self._visited = 0
        self._ignored: collections.Counter[str] = collections.Counter()

    def walk(self, root: Node) -> None:
        """Visits the nodes below a root.

        Raises:
          scene.MeshError: a shape is invalid.
          limits.LimitError: there are too many shapes, nodes or faces.
        """
        self._children(root, _State(), depth=0)
        for kind, count in self._ignored.items():
            self._assets.notes.append(f"nodes of a type that is not read: {kind} ({count})")

    def _children(self, node: Node, state: _State, *, depth: int) -> _State:
        """Visits the children of a group, and returns the properties after it."""
        limits.NESTING.check(depth)
        before = state
        for child in self._shown(node):
            self._visited += 1
            limits.NODES.check(self._visited // 10)  # nodes of properties, too
            state = self._visit(child, state, depth=depth)
        if node.kind == "TransformSeparator":
            return dataclasses.replace(state, transform=before.transform)
        return before if node.kind in _SEPARATORS else state

    def _shown(self, node: Node) -> list[Node]:
        """Returns the children of a group that are drawn."""
        children = [child for _, child in node.children]
        if node.kind == "LOD":
            return children[:1]
        if node.kind == "Switch":
            choice = int(node.vector("whichChild", -1)[0])
            if choice == -3:
                return children
            if 0 <= choice < len(children):
                return [children[choice]]
            if children:
                self._assets.notes.append("Switch that shows none of its children, ignored")
            return []
        return children

    def _visit(self, node: Node, state: _State, *, depth: int) -> _State:
        """Visits one node, and returns the properties after it."""
        moved = transforms.property_transform(node)
        if moved is not None:
            return dataclasses.replace(state, transform=state.transform @ moved)
        if node.kind in (*_SEPARATORS, "Group", "Switch"):
            return self._children(node, state, depth=depth + 1)
        if node.kind == "Coordinate3":
            points = node.rows("point", 3)
            limits.VERTICES.check(len(points))
            return dataclasses.replace(state, points=points)
        if node.kind == "Material":
            return dataclasses.replace(state, material=node)
        if node.kind == "MaterialBinding":
            return dataclasses.replace(state, binding=(node.words("value") or ["DEFAULT"])[0])
        if node.kind == "Texture2":
            return dataclasses.replace(state, texture=node)
        if node.kind == "TextureCoordinate2":
            return dataclasses.replace(state, uv=node.rows("point", 2))
        if node.kind == "ShapeHints":
            order = node.words("vertexOrdering")
            return dataclasses.replace(state, ccw=order[:1] != ["CLOCKWISE"])
        self._shape(node, state)
        return state

    def _shape(self, node: Node, state: _State) -> None:
        """Adds the geometry of a node, if it is one."""
        if node.kind == "IndexedFaceSet":
            self._face_set(node, state, node.indices("coordIndex"))
        elif node.kind in solids.SOLIDS:
            solid = solids.read(node)
            self._face_set(
                node, dataclasses.replace(state, points=solid.points, uv=solid.uv), solid.index
            )
        elif node.kind == "PointSet":
            start, count = (
                int(node.vector(n, d)[0]) for n, d in (("startIndex", 0), ("numPoints", -1))
            )
            end = len(state.points) if count < 0 else max(start, 0) + count
            chosen = state.points[max(start, 0) : end]
            moved = chosen @ state.transform[:3, :3].T + state.transform[:3, 3]
            self.points.append(scene.Points(moved))
        elif node.kind in _IGNORED:
            self._ignored[node.kind] += 1
        limits.PARTS.check(len(self.parts) + len(self.points))

    def _face_set(self, node: Node, state: _State, index: np.ndarray) -> None:
        """Adds polygons."""
        found = faces.triangulate(state.points, index, ccw=state.ccw)
        triangles = state.points[found.vertices]
        texture, uv = self._texture(state.texture), None
        if texture is not None and len(triangles):
            if state.uv is not None:
                uv = faces.choose(
                    found,
                    state.uv,
                    node.indices("textureCoordIndex"),
                    binding=faces.PER_CORNER,
                    notes=self._assets.notes,
                )
            uv = faces.default_uv(triangles) if uv is None else uv
            self._add(triangles, state, uv=uv, texture=texture)
            return
        self._add(triangles, state, colours=self._colours(node, found, state))

    def _colours(self, node: Node, found: faces.Faces, state: _State) -> np.ndarray | None:
        """Returns the colours of corners by the binding of materials; None for one of all faces."""
        if state.material is None or state.binding in ("DEFAULT", "OVERALL", "NONE"):
            return None
        name = (
            "emissiveColor"
            if not state.material.numbers("diffuseColor", 1).any()
            else "diffuseColor"
        )
        rows = state.material.rows(name, 3)
        clear = state.material.numbers("transparency", 0)
        clear = clear if len(clear) == len(rows) else clear[:1]
        index = (
            node.indices("materialIndex")
            if state.binding.endswith("_INDEXED")
            else np.zeros(0, np.int64)
        )
        per_face = state.binding.startswith(("PER_FACE", "PER_PART"))
        return faces.choose(
            found,
            faces.rgba(rows, clear),
            index,
            binding=faces.PER_FACE if per_face else faces.PER_CORNER,
            notes=self._assets.notes,
        )

    def _add(
        self,
        triangles: np.ndarray,
        state: _State,
        *,
        uv: np.ndarray | None = None,
        texture: scene.Texture | None = None,
        colours: np.ndarray | None = None,
    ) -> None:
        """Adds a part."""
        self._faces += len(triangles)
        limits.FACES.check(self._faces)
        if not len(triangles):
            return
        placed = triangles @ state.transform[:3, :3].T + state.transform[:3, 3]
        opacity = 1.0
        if colours is None and state.material is not None:
            clear = state.material.vector("transparency", 0)[0]
            opacity = 1 - float(np.clip(clear, 0, 1))
            if texture is None:
                texture = scene.plain(*scene_graph.plain_colour(state.material))
        self.parts.append(scene.Part(placed, uv, texture, colours, opacity=opacity))

    def _texture(self, node: Node | None) -> scene.Texture | None:
        """Returns the texture of a node Texture2, or None."""
        if node is None:
            return None
        if node not in self._textures:
            name = "".join(node.words("filename")[:1]).strip()
            texels = self._assets.texture(name) if name else None
            modes = [
                scene.CLAMP if node.words(axis)[:1] == ["CLAMP"] else scene.REPEAT
                for axis in ("wrapS", "wrapT")
            ]
            made = None if texels is None else scene.Texture(texels, (modes[0], modes[1]))
            self._textures[node] = made
        return self._textures[node]
