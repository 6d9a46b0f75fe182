# SPDX-License-Identifier: Apache-2.0
"""Shapes of VRML97 and X3D: grouping nodes, appearances and geometry."""

import collections

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import colouring
from data_prep.geometry.readers.vrml import faces, solids, transforms
from data_prep.geometry.readers.vrml.nodes import Node

_GROUPS = (
    *("", "Group", "Transform", "Anchor", "Billboard", "Collision", "StaticGroup", "Viewport"),
    *("CADLayer", "CADAssembly", "CADPart", "CADFace", "HAnimHumanoid", "HAnimJoint"),
    *("HAnimSegment", "HAnimSite", "GeoLocation"),
)
# Groups whose fields are those of a Transform.
_PLACED = ("Transform", "CADPart", "HAnimHumanoid", "HAnimJoint", "HAnimSite")
_FACE_SETS = ("IndexedFaceSet", "IndexedTriangleSet", "TriangleSet", "IndexedQuadSet", "QuadSet")
_CORNERS = {"IndexedTriangleSet": 3, "TriangleSet": 3, "IndexedQuadSet": 4, "QuadSet": 4}
_COLOURS = ("Color", "ColorRGBA")
_POINTS = ("Coordinate", "CoordinateDouble")
_IGNORED = ("IndexedLineSet", "LineSet", "Text")


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
        self._ignored: collections.Counter[str] = collections.Counter()
        self._faces = 0

    def walk(self, root: Node) -> None:
        """Visits the nodes below a root.

        Raises:
          scene.MeshError: a shape is invalid.
          limits.LimitError: there are too many shapes, nodes or faces.
        """
        stack = [(root, np.eye(4), 0)]
        visited = 0
        while stack:
            node, parent, depth = stack.pop()
            visited += 1
            limits.NODES.check(visited)
            limits.NESTING.check(depth)
            if node.kind == "Shape":
                self._shape(node, parent)
                limits.PARTS.check(len(self.parts) + len(self.points))
                continue
            if node.kind in _PLACED:
                parent = parent @ transforms.transform(node)
            stack += [(child, parent, depth + 1) for child in reversed(self._shown(node))]
        for kind, count in self._ignored.items():
            self._assets.notes.append(f"nodes of a type that is not read: {kind} ({count})")

    def _shown(self, node: Node) -> list[Node]:
        """Returns the children of a group that are drawn."""
        children = [child for role, child in node.children if role not in ("proxy", "metadata")]
        if node.kind == "LOD":  # the first level has most detail
            return children[:1]
        if node.kind == "Switch":
            choice = int(node.vector("whichChoice", -1)[0])
            if not 0 <= choice < len(children):
                if children:
                    self._assets.notes.append("Switch that shows none of its children, ignored")
                return []
            return [children[choice]]
        if node.kind == "Inline":
            self._ignored["Inline"] += 1
        return children if node.kind in _GROUPS else []

    def _shape(self, node: Node, transform: np.ndarray) -> None:
        """Adds the geometry of a shape."""
        appearance = node.child("Appearance") or Node("Appearance")
        for _, child in node.children:
            if child.kind in _FACE_SETS:
                self._face_set(child, appearance, transform)
            elif child.kind in solids.SOLIDS:
                solid = solids.read(child)
                self._polygons(child, appearance, transform, solid.points, solid.index, solid.uv)
            elif child.kind == "PointSet":
                self._point_set(child, transform)
            elif child.kind in _IGNORED or child.kind.startswith("Nurbs"):
                self._ignored[child.kind] += 1

    def _add(
        self,
        triangles: np.ndarray,
        transform: np.ndarray,
        appearance: Node,
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
        placed = triangles @ transform[:3, :3].T + transform[:3, 3]
        material, opacity = appearance.child("Material"), 1.0
        if material is not None:
            opacity = 1 - float(np.clip(material.vector("transparency", 0)[0], 0, 1))
        if texture is not None and colours is not None:
            if (colours[..., :3] < 1).any():
                self._assets.notes.append(colouring.BESIDE_TEXTURE)
            colours = None
        if texture is None and colours is None and material is not None:
            texture = scene.plain(*plain_colour(material))
        self.parts.append(scene.Part(placed, uv, texture, colours, opacity=opacity))

    def _face_set(self, node: Node, appearance: Node, transform: np.ndarray) -> None:
        """Adds a set of polygons."""
        holder = node.child(*_POINTS)
        points = np.zeros((0, 3)) if holder is None else holder.rows("point", 3)
        limits.VERTICES.check(len(points))
        index = node.indices("coordIndex")
        corners = _CORNERS.get(node.kind)
        if corners is not None:
            index = node.indices("index") if node.kind.startswith("Indexed") else None
            index = np.arange(len(points)) if index is None else index[index >= 0]
            index = index[: len(index) // corners * corners].reshape(-1, corners)
            index = np.pad(index, ((0, 0), (0, 1)), constant_values=-1).reshape(-1)
        self._polygons(node, appearance, transform, points, index, None)

    def _polygons(
        self,
        node: Node,
        appearance: Node,
        transform: np.ndarray,
        points: np.ndarray,
        index: np.ndarray,
        uv: np.ndarray | None,
    ) -> None:
        """Adds polygons with the colours and texture coordinates of a node."""
        found = faces.triangulate(points, index, ccw=node.flag("ccw", True))
        triangles = points[found.vertices]
        texture = self._texture(appearance)
        coordinates = None
        if texture is not None and len(triangles):
            coordinates = self._coordinates(node, appearance, found, triangles, uv)
        self._add(
            triangles,
            transform,
            appearance,
            uv=coordinates,
            texture=texture,
            colours=self._colours(node, found),
        )

    def _colours(self, node: Node, found: faces.Faces) -> np.ndarray | None:
        """Returns the colours of corners, float32 [faces, 3, 4], or None."""
        holder = node.child(*_COLOURS)
        if holder is None:
            return None
        rows = holder.rows("color", 4 if holder.kind == "ColorRGBA" else 3)
        per_vertex = node.flag("colorPerVertex", True) or node.kind in _CORNERS
        return faces.choose(
            found,
            faces.rgba(rows),
            node.indices("colorIndex"),
            binding=faces.PER_CORNER if per_vertex else faces.PER_FACE,
            notes=self._assets.notes,
        )

    def _coordinates(
        self,
        node: Node,
        appearance: Node,
        found: faces.Faces,
        triangles: np.ndarray,
        default: np.ndarray | None,
    ) -> np.ndarray:
        """Returns texture coordinates of corners, [faces, 3, 2]."""
        holder = node.child("TextureCoordinate", "MultiTextureCoordinate")
        if holder is not None and holder.kind == "MultiTextureCoordinate":
            holder = holder.child("TextureCoordinate")
        uv = None if default is None else default[found.vertices]
        if holder is not None:
            uv = faces.choose(
                found,
                holder.rows("point", 2),
                node.indices("texCoordIndex"),
                binding=faces.PER_CORNER,
                notes=self._assets.notes,
            )
        uv = faces.default_uv(triangles) if uv is None else uv
        moved = appearance.child("TextureTransform")
        return uv if moved is None else transforms.texture_transform(moved, uv)

    def _texture(self, appearance: Node) -> scene.Texture | None:
        """Returns the texture of an appearance, or None."""
        node = appearance.child("ImageTexture", "MultiTexture", "PixelTexture")
        if node is not None and node.kind == "MultiTexture":
            node = node.child("ImageTexture", "PixelTexture")
        if node is None:
            return None
        if node not in self._textures:
            self._textures[node] = self._read_texture(node)
        return self._textures[node]

    def _read_texture(self, node: Node) -> scene.Texture | None:
        """Reads the picture of a texture node."""
        urls = [url for url in node.words("url") if url.strip()]
        if node.kind == "PixelTexture" or not urls:
            self._assets.notes.append("texture without a file, ignored")
            return None
        texels = self._assets.texture(urls[0].strip())
        if texels is None:
            return None
        wrap = [
            scene.REPEAT if node.flag(name, True) else scene.CLAMP
            for name in ("repeatS", "repeatT")
        ]
        return scene.Texture(texels, (wrap[0], wrap[1]))

    def _point_set(self, node: Node, transform: np.ndarray) -> None:
        """Adds a set of points."""
        holder, colours = node.child(*_POINTS), node.child(*_COLOURS)
        if holder is None:
            return
        xyz = holder.rows("point", 3)
        rgb = None
        if colours is not None:
            rgb = colours.rows("color", 4 if colours.kind == "ColorRGBA" else 3)[:, :3]
        if rgb is not None and len(rgb) != len(xyz):
            self._assets.notes.append("colours of another number than points, ignored")
            rgb = None
        self.points.append(
            scene.Points(
                xyz @ transform[:3, :3].T + transform[:3, 3],
                None if rgb is None else np.clip(rgb, 0, 1),
            )
        )


def plain_colour(material: Node) -> np.ndarray:
    """Returns the sRGB colour [3] of a material: emissive if the diffuse one is black."""
    diffuse = material.vector("diffuseColor", 0.8, 0.8, 0.8)
    emissive = material.vector("emissiveColor", 0, 0, 0)
    return diffuse if diffuse.any() else emissive
