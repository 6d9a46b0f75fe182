# SPDX-License-Identifier: Apache-2.0
"""Reader of OBJ files, with their MTL files and textures."""

from collections.abc import Iterator

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import obj_text, polygons
from data_prep.geometry.readers.obj_materials import Look, Materials
from data_prep.geometry.scene import MeshError

COLOURS_IGNORED = "vertex colours beside a texture, ignored"
# Notes for statements that are ignored.
_IGNORED = {
    **dict.fromkeys(("call", "csh"), "call or csh, ignored"),
    **dict.fromkeys(
        (
            *("cstype", "deg", "bmat", "step", "curv", "curv2", "surf", "parm", "trim", "hole"),
            *("scrv", "sp", "end", "con", "vp", "bzp", "bsp", "cdc", "cdp", "res"),
        ),
        "free-form curves and surfaces, ignored",
    ),
    "l": "lines, ignored",
}
# Statements without effect on shape and colour.
_SILENT = (
    *("mtllib", "usemtl", "mg", "bevel", "c_interp", "d_interp", "lod", "shadow_obj", "trace_obj"),
    *("ctech", "stech", "maplib", "usemap", "p"),
)
# Sums of rounded numbers exceed 1 a little; levels of 8 bits do so by far.
_LARGEST_FRACTION = 1.01


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads a mesh, or the point cloud of a file without faces.

    The parts are the materials, the last one that is used first, and quads of a part are cut into
    all first and then all second halves: the order in which earlier versions had the faces, which
    decides the points that a seed samples.

    Args:
      data: bytes of the file.
      assets: reads materials and textures, and collects notes.
      file_type: unused.

    Raises:
      scene.MeshError: the file is not an OBJ file, or a face names a vertex that does not exist.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    elements = obj_text.parse(data)
    _note_statements(elements, notes=assets.notes)
    xyz = _positions(elements.vertices, notes=assets.notes)
    colours = _colours(elements.vertices, notes=assets.notes)
    faces = elements.faces
    vertex = _zero_based(faces.vertex, faces, elements.vertices.lines)
    _check_vertices(faces.vertex, vertex, len(xyz))
    if (faces.counts < 3).any():
        number = np.count_nonzero(faces.counts < 3)
        assets.notes.append(f"{number} faces of fewer than three corners, ignored")
    cut = polygons.triangulate(xyz, vertex, counts=faces.counts)
    if not len(cut.corners):
        return scene.Scene(points=tuple(_points(xyz, colours)))
    uv = _coordinates(elements, notes=assets.notes)
    statements = elements.statements
    materials = Materials([t for _, keyword, t in statements if keyword == "mtllib"], assets=assets)
    parts: list[scene.Part] = []
    for name, chosen in _by_material(elements, cut):
        corners = cut.corners[chosen]
        where = vertex[corners]
        part = _Part(
            triangles=xyz[where],
            uv=None if uv is None else uv[corners],
            colours=None if colours is None else colours[where],
            look=materials.look(name),
        )
        parts += part.split(notes=assets.notes)
    limits.PARTS.check(len(parts))
    return scene.Scene(tuple(parts))


class _Part:
    """Faces of one material."""

    def __init__(
        self,
        *,
        triangles: np.ndarray,
        uv: np.ndarray | None,
        colours: np.ndarray | None,
        look: Look,
    ):
        self._triangles, self._uv, self._colours, self._look = triangles, uv, colours, look

    def split(self, *, notes: list[str]) -> Iterator[scene.Part]:
        """Yields the faces with texture coordinates, with vertex colours, and without both."""
        rest = np.ones(len(self._triangles), bool)
        look = self._look
        if look.picture is not None:
            has_uv = rest & False
            if self._uv is not None:
                has_uv = np.isfinite(self._uv).all(axis=(1, 2))
            if not has_uv.all():
                _add_once("texture on faces without texture coordinates, ignored", notes)
            if has_uv.any():
                if self._colours is not None and (self._colours[has_uv] < 1).any():
                    _add_once(COLOURS_IGNORED, notes)
                uv = self._uv[has_uv]
                if look.scale != (1, 1) or look.offset != (0, 0):
                    uv = uv * look.scale + look.offset
                yield self._part(has_uv, uv=uv, texture=look.picture)
            rest = ~has_uv
        if self._colours is not None:
            has_colour = rest & ~np.isnan(self._colours[..., 0]).all(axis=1)
            colours = np.nan_to_num(self._colours[has_colour], nan=1.0)
            # White is what exporters write for no colour; it leaves that of the material.
            if len(colours) and (look.plain is None or (colours < 1).any()):
                yield self._part(has_colour, colours=colours)
                rest = rest & ~has_colour
        if rest.any():
            yield self._part(rest, texture=look.plain)

    def _part(self, chosen: np.ndarray, **appearance) -> scene.Part:
        triangles = self._triangles if chosen.all() else self._triangles[chosen]
        return scene.Part(triangles, opacity=self._look.opacity, **appearance)


def _add_once(note: str, notes: list[str]) -> None:
    if note not in notes:
        notes.append(note)


def _note_statements(elements: obj_text.Elements, *, notes: list[str]) -> None:
    """Notes the statements that are ignored.

    Raises:
      MeshError: the file has neither vertices nor a statement of OBJ.
    """
    unknown = 0
    for _, keyword, text in elements.statements:
        if keyword in _IGNORED:
            _add_once(_IGNORED[keyword], notes)
        elif keyword not in _SILENT:
            if not len(elements.vertices.lines):
                raise MeshError(f"not an OBJ file; it starts with {f'{keyword} {text[:30]}'!r}")
            unknown += 1
    if unknown:
        notes.append(f"{unknown} lines of unknown kinds, ignored")
    if len(elements.faces.lines) and any(keyword == "p" for _, keyword, _ in elements.statements):
        notes.append("points beside faces, ignored")


def _positions(vertices: obj_text.Rows, *, notes: list[str]) -> np.ndarray:
    """Returns the positions of the vertices, float64 [vertices, 3]."""
    if (vertices.counts < 3).any():
        raise MeshError("a vertex of fewer than three coordinates")
    weights = vertices.column(3)[np.isin(vertices.counts, (4, 5))]
    if (weights != 1).any():
        notes.append("weights of vertices, ignored")
    return np.stack([vertices.column(index) for index in range(3)], axis=1)


def _colours(vertices: obj_text.Rows, *, notes: list[str]) -> np.ndarray | None:
    """Returns the sRGB colours of the vertices, float32 [vertices, 4], 0 to 1, NaN for none.

    They are numbers behind the position, 0 to 1, or 0 to 255 if any exceeds 1. A seventh number is
    an alpha, unless the fourth is always 1: a weight.
    """
    is_coloured = vertices.counts >= 6
    if not is_coloured.any():
        return None
    first = 3
    if (vertices.counts[is_coloured] == 7).all():
        fourth, last = vertices.column(3)[is_coloured], vertices.column(6)[is_coloured]
        first = 4 if (fourth == 1).all() and not (last == 1).all() else 3
    elif (vertices.counts[is_coloured] > 7).all():
        first = 4
    rgba = np.stack([vertices.column(first + index) for index in range(4)], axis=1)
    rgba[~is_coloured] = np.nan
    rgb = rgba[is_coloured, :3]
    if (rgb < 0).any():
        notes.append("numbers behind vertices that are no colours, ignored")
        return None
    if (rgb > _LARGEST_FRACTION).any():
        rgba /= 255
    rgba[is_coloured] = np.clip(np.nan_to_num(rgba[is_coloured], nan=1.0), 0, 1)
    return rgba.astype(np.float32)


def _points(xyz: np.ndarray, colours: np.ndarray | None) -> Iterator[scene.Points]:
    """Yields the vertices of a file without faces, those with and those without colours."""
    if colours is None:
        if len(xyz):
            yield scene.Points(xyz)
        return
    is_coloured = ~np.isnan(colours[:, 0])
    yield scene.Points(xyz[is_coloured], colours[is_coloured, :3])
    if not is_coloured.all():
        yield scene.Points(xyz[~is_coloured])


def _zero_based(stated: np.ndarray, faces: obj_text.Faces, lines: np.ndarray) -> np.ndarray:
    """Returns indices from 0. Negative ones count back from the last element above the face.

    Args:
      stated: int64 [corners], as the file states them.
      faces: the faces of the corners.
      lines: int64 [elements], lines of the elements that the indices refer to.
    """
    if not len(stated) or stated.min() >= 0:
        return stated - 1
    above = np.repeat(np.searchsorted(lines, faces.lines), faces.counts)
    return np.where(stated < 0, above + stated, stated - 1)


def _check_vertices(stated: np.ndarray, vertex: np.ndarray, number: int) -> None:
    """Raises MeshError if a face names a vertex that does not exist."""
    if (stated == 0).any():
        raise MeshError("a face names vertex 0; the first one is 1")
    bad = (vertex < 0) | (vertex >= number)
    if bad.any():
        index = stated[bad.argmax()]
        raise MeshError(f"a face names a vertex that does not exist: {index} of {number}")


def _coordinates(elements: obj_text.Elements, *, notes: list[str]) -> np.ndarray | None:
    """Returns the texture coordinates of all corners, [corners, 2], NaN where there are none."""
    rows, faces = elements.coordinates, elements.faces
    if not faces.coordinate.any():
        return None
    index = _zero_based(faces.coordinate, faces, rows.lines)
    bad = (index < 0) | (index >= len(rows.counts))
    if (bad & (faces.coordinate != 0)).any():
        notes.append("texture coordinates that do not exist, ignored")
    uv = np.stack([rows.column(0), rows.column(1), np.zeros(len(rows.counts))], axis=1)[:, :2]
    uv[rows.counts == 1, 1] = 0  # the second number is optional
    if not bad.any():
        return uv[index]
    padded = np.concatenate([uv, [[np.nan, np.nan]]])
    return padded[np.where(bad, len(uv), index)]


def _by_material(
    elements: obj_text.Elements, cut: polygons.Triangulation
) -> Iterator[tuple[str | None, np.ndarray]]:
    """Yields the name of each material and its triangles, the last material first.

    The name is None for faces above the first `usemtl`, and "" if there are such faces in a file
    with a `usemtl`.
    """
    used = [(line, t) for line, keyword, t in elements.statements if keyword == "usemtl"]
    everything = np.arange(len(cut.polygon))
    if not used:
        yield None, _halves_first(everything, elements, cut)
        return
    # Names by their number; 0 is that of faces above the first `usemtl`.
    numbers: dict[str, int] = {}
    of_statement = [0, *(numbers.setdefault(name, len(numbers) + 1) for _, name in used)]
    limits.PARTS.check(len(numbers))
    names = ["", *numbers]
    lines = np.array([line for line, _ in used])
    of_face = np.array(of_statement)[np.searchsorted(lines, elements.faces.lines)]
    material = of_face[cut.polygon]
    order = np.argsort(material, kind="stable")
    present, starts = np.unique(material[order], return_index=True)
    groups = np.split(order, starts[1:])
    firsts = [group[0] for group in groups]
    for rank in np.argsort(firsts)[::-1]:
        yield names[present[rank]], _halves_first(groups[rank], elements, cut)


def _halves_first(
    chosen: np.ndarray, elements: obj_text.Elements, cut: polygons.Triangulation
) -> np.ndarray:
    """Returns triangles with the first halves of all quads first, if all faces are quads."""
    if (elements.faces.counts[cut.polygon[chosen]] == 4).all():
        return chosen.reshape(-1, 2).T.reshape(-1)
    return chosen
