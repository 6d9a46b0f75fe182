# SPDX-License-Identifier: Apache-2.0
"""3MF files of printers: a zip archive with models as XML, and their textures."""

import dataclasses
import io
import posixpath
from xml.etree.ElementTree import Element

import numpy as np

from data_prep.foreign import archives, limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import xml_documents
from data_prep.geometry.readers.three_mf_colours import Palette, read_palettes

_ROOT_MODEL = "3D/3dmodel.model"
_MODEL_RELATIONSHIP = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
# Objects that a printer adds around the model.
_SUPPORTS = ("support", "solidsupport")
# Attributes of triangles by which slicers paint colours; their meaning is not in the standard.
_PAINT = ("paint_color", "mmu_segmentation")


@dataclasses.dataclass(frozen=True)
class _Model:
    """One XML file of the archive.

    Attributes:
      root: its root element.
      objects: elements `object` by identifier.
      palettes: groups of colours by identifier.
    """

    root: Element
    objects: dict[str, Element]
    palettes: dict[str, Palette]


@dataclasses.dataclass(frozen=True)
class _Default:
    """Colour of triangles that have none of their own.

    Attributes:
      name: identifier of a group of colours, or None.
      item: index of the colour, as in the file.
      palettes: groups of the model that names it.
    """

    name: str | None = None
    item: str = "0"
    palettes: dict[str, Palette] = dataclasses.field(default_factory=dict)


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads the objects that a file builds; z is up, and lengths stay in the unit of the file.

    Args:
      data: bytes of the file.
      assets: collects the notes; textures are in the file itself.
      file_type: unused.

    Raises:
      scene.MeshError: the file is corrupt.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    try:
        archive = archives.Archive(io.BytesIO(data))
        inner = Assets(archive.read, folder="")
        inner.notes = assets.notes
        parts = _Reader(archive, inner).read()
    except archives.ArchiveError as error:
        raise scene.MeshError(str(error)) from error
    return scene.Scene(tuple(parts), up_axis="z")


class _Reader:
    """Reads the parts of an archive; models and meshes are read once."""

    def __init__(self, archive: archives.Archive, assets: Assets):
        self._archive = archive
        self._assets = assets
        self._models: dict[str, _Model] = {}
        self._meshes: dict[tuple[Element, str | None, str], list[scene.Part]] = {}
        self._faces = 0

    def read(self) -> list[scene.Part]:
        """Returns the parts of all objects that the root model builds."""
        path = self._root_path()
        model = self._model(path)
        items = model.root.findall("build/item")
        stack = [(item, path, np.eye(4), 1, _Default()) for item in items]
        if not stack:
            raise scene.MeshError("a file that builds no object")
        stack.reverse()
        parts, visited = [], 0
        while stack:
            use, path, parent, depth, default = stack.pop()
            visited += 1
            limits.NODES.check(visited)
            limits.DEPTH.check(depth)
            path = _attribute(use, "path") or path
            model = self._model(path)
            element = model.objects.get(use.get("objectid", ""))
            if element is None:
                self._assets.notes.append("missing object")
                continue
            if element.get("type") in _SUPPORTS:
                self._assets.notes.append("support of the printer, ignored")
                continue
            transform = parent @ _transform(use)
            # CAD programs give the colour to the object that has the mesh as a component.
            if element.get("pid"):
                default = _Default(element.get("pid"), element.get("pindex", "0"), model.palettes)
            for part in self._read_mesh(element, model, default):
                self._faces += len(part.triangles)
                limits.FACES.check(self._faces)
                placed = part.triangles @ transform[:3, :3].T + transform[:3, 3]
                parts.append(dataclasses.replace(part, triangles=placed))
            components = element.findall("components/component")
            stack += [(c, path, transform, depth + 1, default) for c in reversed(components)]
        return parts

    def _root_path(self) -> str:
        """Returns the path of the root model, which the archive's relationships name."""
        if "_rels/.rels" in self._archive:
            root = xml_documents.parse(self._archive.read("_rels/.rels"))
            for relationship in root.iter("Relationship"):
                if relationship.get("Type") == _MODEL_RELATIONSHIP:
                    return relationship.get("Target", _ROOT_MODEL)
        return _ROOT_MODEL

    def _model(self, path: str) -> _Model:
        """Reads one XML file of the archive."""
        path = archives.safe_path(path)
        if path not in self._models:
            try:
                root = xml_documents.parse(self._archive.read(path))
            except FileNotFoundError as error:
                raise scene.MeshError(f"a zip archive without the model {path}") from error
            objects = {e.get("id", ""): e for e in root.iterfind("resources/object")}
            limits.PARTS.check(len(objects))
            palettes = read_palettes(root, assets=self._assets)
            self._models[path] = _Model(root, objects, palettes)
        return self._models[path]

    def _read_mesh(self, element: Element, model: _Model, default: _Default) -> list[scene.Part]:
        """Returns the parts of an object's own mesh, without transforms."""
        mesh = element.find("mesh")
        if mesh is None:
            return []
        key = (element, default.name, default.item)
        if key not in self._meshes:
            self._meshes[key] = _parts(mesh, model, default, notes=self._assets.notes)
        return self._meshes[key]


def _parts(
    mesh: Element, model: _Model, default: _Default, *, notes: list[str]
) -> list[scene.Part]:
    """Returns the parts of a mesh, one for each group of colours."""
    vertices = mesh.findall("vertices/vertex")
    faces = mesh.findall("triangles/triangle")
    limits.VERTICES.check(len(vertices))
    limits.FACES.check(len(faces))
    if mesh.find("beamlattice") is not None:
        notes.append("lattice of beams, ignored")
    try:
        xyz = np.array([[v.attrib[axis] for axis in "xyz"] for v in vertices], np.float64)
        corners = np.array(
            [[f.attrib[name] for name in ("v1", "v2", "v3")] for f in faces], np.int64
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise scene.MeshError("a vertex or triangle without numbers") from error
    if not len(corners):
        return []
    if corners.min() < 0 or corners.max() >= len(xyz):
        raise scene.MeshError("a triangle of a vertex that does not exist")
    if any(name.rpartition("}")[2] in _PAINT for face in faces for name in face.keys()):
        notes.append("colours painted in a slicer, ignored")
    groups: dict[str | None, list[int]] = {}
    for index, face in enumerate(faces):
        groups.setdefault(face.get("pid"), []).append(index)
    triangles = xyz[corners]
    parts = []
    for name, rows in groups.items():
        chosen = triangles[np.array(rows)]
        palettes = model.palettes if name else default.palettes
        palette = palettes.get(name or default.name or "")
        if palette is None:
            if name or default.name:
                notes.append("colours of a kind that is not read, ignored")
            parts.append(scene.Part(chosen))
            continue
        parts += palette.parts(chosen, _palette_indices([faces[r] for r in rows], default.item))
    return parts


def _palette_indices(faces: list[Element], default: str) -> np.ndarray:
    """Returns the indices of the corners into a group of colours, int64 [faces, 3].

    The first corner stands for those that are not given, and the object for the first.
    """
    rows = []
    for face in faces:
        first = face.get("p1", default)
        rows.append((first, face.get("p2", first), face.get("p3", first)))
    try:
        return np.array(rows, np.int64)
    except (ValueError, OverflowError) as error:
        raise scene.MeshError("a triangle whose colour is not a number") from error


def _attribute(element: Element, name: str) -> str | None:
    """Returns an attribute of an extension, by its name without namespace."""
    found = (v for k, v in element.attrib.items() if k.rpartition("}")[2] == name)
    path = next(found, None)
    return None if path is None else posixpath.normpath(path)


def _transform(use: Element) -> np.ndarray:
    """Returns the transform of an item or component, float64 [4, 4], for column vectors."""
    result = np.eye(4)
    text = use.get("transform")
    if text:
        try:
            # Twelve numbers: rows of a matrix for row vectors, the last its translation.
            result[:3] = np.array(text.split(), np.float64).reshape(4, 3).T
        except ValueError as error:
            raise scene.MeshError("a transform without twelve numbers") from error
    return result
