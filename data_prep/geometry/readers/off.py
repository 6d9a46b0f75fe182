# SPDX-License-Identifier: Apache-2.0
"""Object File Format (OFF) of Geomview, as ModelNet, MeshLab and CGAL write it.

In many files of ModelNet40 no line break separates the word OFF from the counts ("OFF6586 5534 0").
"""

import dataclasses
import re

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import file_checks
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import colouring, off_binary, polygons, text_numbers
from data_prep.geometry.scene import MeshError, Part, Points, Scene

_KEYWORD = re.compile(rb"\s*(ST)?(C)?(N)?(C)?(4)?(n)?(?:OFF|off)(?![A-Za-z])(?:[ \t]+(BINARY))?")
COLOUR_MAP_IGNORED = "colours by number of a colour map, ignored"
COLUMNS_IGNORED = "numbers behind vertices that the keyword OFF does not declare, ignored"
_TOO_FEW_CORNERS = "faces of fewer than three corners, ignored"


@dataclasses.dataclass(frozen=True)
class Body:
    """Numbers of a file.

    Attributes:
      vertices: float64 [vertices, columns]: position, and what the keyword declares.
      indices: int64 [corners], vertices of the faces, face after face.
      counts: int64 [faces], corners of each face.
      face_colours: float64 [faces, 4], not finite where a face has less; None without colours.
    """

    vertices: np.ndarray
    indices: np.ndarray
    counts: np.ndarray
    face_colours: np.ndarray | None


def read(data: bytes, *, assets: Assets, file_type: str) -> Scene:
    """Reads an OFF file.

    Colours are those of the vertices (COFF), or of the faces, three or four numbers behind their
    vertices; integers of 0 to 255 or floats of 0 to 1.

    Args:
      data: bytes of the file.
      assets: collects the notes.
      file_type: unused.

    Raises:
      MeshError: the file is malformed or truncated.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    data = text_numbers.to_utf8(data)
    # A comment may stand before the keyword.
    start = re.match(rb"(?:\s*#[^\r\n]*)*", data).end()
    keyword = _KEYWORD.match(data, start)
    if keyword is None:
        raise MeshError("malformed OFF: it does not start with OFF")
    if keyword[5] or keyword[6]:
        raise MeshError("OFF with four or n coordinates per vertex (4OFF, nOFF) is not read")
    has_normals, has_colours = bool(keyword[3]), bool(keyword[2] or keyword[4])
    if keyword[7]:
        width = 3 + 3 * has_normals + 4 * has_colours + 2 * bool(keyword[1])
        body = off_binary.read(data, keyword.end(), columns=width)
        body = Body(*body)
    else:
        body = _read_text(data[keyword.end() :], notes=assets.notes)
        if body.vertices.shape[1] > 3 and not any(keyword.group(1, 2, 3, 4)):
            assets.notes.append(COLUMNS_IGNORED)
    return _scene(body, has_normals=has_normals, has_colours=has_colours, notes=assets.notes)


def _scene(body: Body, *, has_normals: bool, has_colours: bool, notes: list[str]) -> Scene:
    """Returns the triangles, or the vertices if there are none."""
    vertices = np.ascontiguousarray(body.vertices[:, :3])
    vertex_rgba = None
    if has_colours and len(vertices):
        vertex_rgba = _rgba(_colour_columns(body.vertices, has_normals=has_normals), notes=notes)
    if len(body.indices) and not 0 <= body.indices.min() <= body.indices.max() < len(vertices):
        raise MeshError("a face names a vertex that does not exist")
    found = polygons.triangulate(vertices, body.indices, counts=body.counts)
    small = int((body.counts < 3).sum())
    if small:
        notes.append(f"{_TOO_FEW_CORNERS}: {small}")
    if not len(found.corners):
        rgb = None if vertex_rgba is None else vertex_rgba[:, :3]
        return Scene(points=(Points(vertices, rgb),) if len(vertices) else ())
    face_rgba, has_own = _face_rgba(body.face_colours, notes=notes)
    triangles = body.indices[found.corners]
    options = {"triangles": triangles, "polygon": found.polygon, "notes": notes}
    colours = colouring.of_corners(vertex_rgba, face_rgba, **options)
    positions = vertices[triangles]
    if vertex_rgba is None and face_rgba is not None and not has_own.all():
        own = has_own[found.polygon]
        parts = [Part(positions[own], colours=colours[own]), Part(positions[~own])]
        return Scene(tuple(part for part in parts if len(part.triangles)))
    return Scene((Part(positions, colours=colours),))


def _colour_columns(vertices: np.ndarray, *, has_normals: bool) -> np.ndarray:
    """Returns the columns [vertices, 3 or 4] of colours; some programs write them before normals.

    Raises:
      MeshError: a vertex has too few numbers.
    """
    rest = vertices[:, 3:]
    if not has_normals:
        # Texture coordinates may follow.
        width = rest.shape[1] - (2 if rest.shape[1] in (5, 6) else 0)
        if width not in (3, 4):
            raise _column_error(vertices)
        return rest[:, :width]
    if rest.shape[1] in (8, 9):
        rest = rest[:, :-2]
    if rest.shape[1] not in (6, 7):
        raise _column_error(vertices)
    lengths = [np.linalg.norm(part, axis=1) for part in (rest[:, :3], rest[:, -3:])]
    first, last = (np.mean(np.abs(length - 1) < 0.01) for length in lengths)
    return rest[:, :-3] if last > first else rest[:, 3:]


def _column_error(vertices: np.ndarray) -> MeshError:
    return MeshError(
        "malformed OFF: expected three or four numbers of colour per vertex; columns found: "
        f"{vertices.shape[1]}"
    )


def _rgba(values: np.ndarray, *, notes: list[str]) -> np.ndarray | None:
    """Converts colours [n, 3 or 4] to float32 [n, 4] of 0 to 1; integers are told by the values."""
    is_integer = bool((values[:, :3] > 1).any())
    unit = colouring.to_unit(values, code="u4" if is_integer else "f4", notes=notes)
    if unit is None:
        return None
    unit = colouring.to_float(unit)
    return unit if unit.shape[1] == 4 else np.column_stack([unit, np.ones(len(unit), np.float32)])


def _face_rgba(
    colours: np.ndarray | None, *, notes: list[str]
) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns the colours of faces, float32 [faces, 4], or None, and which faces have one."""
    if colours is None:
        return None, np.zeros(0, bool)
    has_own = np.isfinite(colours[:, :3]).all(axis=1)
    if (np.isfinite(colours[:, 0]) & ~has_own).any():
        notes.append(COLOUR_MAP_IGNORED)
    if not has_own.any():
        return None, has_own
    rgba = np.ones((len(colours), 4), np.float32)
    own = colours[has_own]
    has_alpha = bool(np.isfinite(own[:, 3]).all())
    converted = _rgba(own if has_alpha else own[:, :3], notes=notes)
    if converted is None:
        return None, has_own
    rgba[has_own] = converted
    return rgba, has_own


def _read_text(text: bytes, *, notes: list[str]) -> Body:
    """Parses the counts, the vertices and the faces.

    Raises:
      MeshError: they are malformed, or there are fewer than the counts.
    """
    lines = [line for line in text_numbers.clean(text).splitlines() if line.strip()]
    counts = lines[0].split()[:3] if lines else []
    if len(counts) < 2 or not all(re.fullmatch(rb"\+?[0-9]{1,12}", word) for word in counts[:2]):
        raise MeshError("malformed OFF: no counts of vertices and faces")
    vertex_count, face_count = int(counts[0]), int(counts[1])
    (limits.VERTICES if face_count else limits.POINTS).check(vertex_count)
    limits.FACES.check(face_count)
    body = lines[1:]
    if len(body) < vertex_count:
        raise file_checks.truncated("vertices", len(body), of=vertex_count)
    if len(body) < vertex_count + face_count:
        raise file_checks.truncated("faces", len(body) - vertex_count, of=face_count)
    if len(body) > vertex_count + face_count:
        notes.append("data after the last face, ignored")
    vertices = _table(body[:vertex_count])
    if vertices is None:
        vertices = _table([b" ".join(line.split()[:3]) for line in body[:vertex_count]])
    if vertices is None or (vertex_count and vertices.shape[1] < 3):
        raise MeshError("malformed OFF: a vertex without three coordinates")
    faces = body[vertex_count : vertex_count + face_count]
    return Body(vertices, *_faces(faces))


def _table(lines: list[bytes]) -> np.ndarray | None:
    """Parses lines of equally many numbers, float64 [lines, columns]; None if they differ."""
    if not lines:
        return np.zeros((0, 3))
    columns = len(lines[0].split())
    numbers = text_numbers.parse(b"\n".join(lines))
    if len(numbers) != columns * len(lines):
        return None
    return numbers.reshape(-1, columns)


def _faces(lines: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Parses faces; returns `indices`, `counts` and `face_colours` of `Body`."""
    table = _table(lines)
    if table is not None and len(table) and (table[:, 0] == table[0, 0]).all():
        count = table[0, 0]
        if 0 <= count < table.shape[1] and count == int(count):
            count = int(count)
            indices = _whole(table[:, 1 : count + 1].reshape(-1))
            colours = table[:, count + 1 : count + 5]
            counts = np.full(len(table), count, np.int64)
            return indices, counts, _padded(colours) if colours.shape[1] else None
    return _uneven_faces(lines)


def _uneven_faces(lines: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Parses faces of different numbers of corners or of different colours."""
    lengths = np.array([len(line.split()) for line in lines], np.int64)
    numbers = text_numbers.parse(b"\n".join(lines))
    if len(numbers) != lengths.sum():
        raise MeshError("malformed OFF: a face is not a list of numbers")
    starts = np.cumsum(lengths) - lengths
    counts = _whole(numbers[starts])
    if (counts < 0).any() or (counts >= lengths).any():
        raise MeshError("malformed OFF: a face has fewer corners than it counts")
    within = np.arange(len(numbers)) - np.repeat(starts, lengths)
    indices = _whole(numbers[(within > 0) & (within <= np.repeat(counts, lengths))])
    rest = np.minimum(lengths - counts - 1, 4)
    if not rest.any():
        return indices, counts, None
    colours = np.full((len(lines), 4), np.nan)
    for channel in range(4):
        has_channel = rest > channel
        colours[has_channel, channel] = numbers[(starts + counts + 1)[has_channel] + channel]
    return indices, counts, colours


def _whole(numbers: np.ndarray) -> np.ndarray:
    """Converts indices to int64; those that are no whole numbers become -1."""
    usable = np.abs(numbers) < 2**53
    numbers = np.where(usable, numbers, -1)
    return np.where(numbers == np.rint(numbers), numbers, -1).astype(np.int64)


def _padded(colours: np.ndarray) -> np.ndarray:
    """Returns colours [faces, n] as [faces, 4], NaN for missing channels."""
    padded = np.full((len(colours), 4), np.nan)
    padded[:, : colours.shape[1]] = colours
    return padded
