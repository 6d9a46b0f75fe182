# SPDX-License-Identifier: Apache-2.0
"""Loads textured meshes and samples coloured points from them."""

import contextlib
import dataclasses
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import trimesh
from trimesh.exchange import stl

from data_prep.foreign import limits
from data_prep.geometry import assets, materials, mesh_checks

# A texel with less alpha is a hole (leaves, grilles), not a surface.
HOLE_ALPHA = 128
# A material with less opacity is a helper volume, not a surface; glass has much more.
INVISIBLE_OPACITY = 0.02
# Sweet Home 3D, OBJ and glTF have y up. A quarter turn about x, so a proper rotation.
Y_UP_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
# Exceptions of trimesh and numpy for malformed files, found by `benchmarks.fuzz`. trimesh checks
# with `assert`; HeaderError is a direct subclass of Exception.
_LOADER_ERRORS = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
    *(OSError, EOFError, NameError, RuntimeError, SyntaxError, MemoryError, BufferError),
    *(struct.error, zlib.error, stl.HeaderError),
)


class MeshError(ValueError):
    """Raised for an unusable mesh; the message is short and starts with a countable reason."""


class NoFacesError(MeshError):
    """Raised for a file without triangles, which may be a point cloud; see `load_points`."""


@dataclasses.dataclass(frozen=True)
class Surface:
    """Triangles with one texture per part; a plain colour is a texture of one texel.

    Attributes:
      triangles: float32 [faces, 3, 3], corner positions, z up.
      uv: float32 [faces, 3, 2], texture coordinates of the corners, origin at the lower left.
      part: int32 [faces], index of the part of each face.
      texels: uint8 [texels, 4], RGBA of all textures, row by row from the top.
      offset: int32 [parts], first texel of each texture.
      width: int32 [parts], width of each texture.
      height: int32 [parts], height of each texture.
      opacity: float32 [parts], 0 (invisible) to 1, not included in the alpha of the texels.
    """

    triangles: np.ndarray
    uv: np.ndarray
    part: np.ndarray
    texels: np.ndarray
    offset: np.ndarray
    width: np.ndarray
    height: np.ndarray
    opacity: np.ndarray


def load_surface(
    data: bytes,
    *,
    file_type: str,
    resolver: assets.AssetResolver,
    rotation: np.ndarray | None = None,
    plain_colour: tuple[int, int, int, int] = materials.GREY,
) -> Surface:
    """Reads a mesh file of any type that trimesh supports, with its colours.

    Args:
      data: bytes of the file.
      file_type: suffix of the file, without dot.
      resolver: reads materials and textures, and collects the faults.
      rotation: [3, 3], applied to column vectors of the file; None to turn y up into z up.
      plain_colour: RGBA of the parts without a colour.

    Returns:
      The surface, including degenerate faces, which have no area and are never sampled.

    Raises:
      NoFacesError: the file has no faces.
      MeshError: the file is malformed, exceeds one of `limits` or has a non-finite coordinate.
    """
    with _mesh_errors(resolver):
        rotation = Y_UP_TO_Z_UP if rotation is None else rotation
        parts, faces, vertices = [], 0, 0
        for mesh, transform in _geometries(data, file_type=file_type, resolver=resolver):
            if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces):
                _check_indices(mesh)
                faces, vertices = faces + len(mesh.faces), vertices + len(mesh.vertices)
                limits.FACES.check(faces)
                limits.VERTICES.check(vertices)
                parts.append((mesh, rotation @ transform[:3]))
        if not parts:
            raise NoFacesError("no faces")
        surface = _assemble(parts, resolver.faults, plain_colour)
    if not np.isfinite(surface.triangles).all():
        raise MeshError("non-finite coordinates")
    return surface


def load_points(
    data: bytes, *, file_type: str, resolver: assets.AssetResolver
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads the points of a file without faces, in the file's own axes.

    Args:
      data: bytes of the file.
      file_type: suffix of the file, without dot.
      resolver: as in `load_surface`.

    Returns:
      xyz float64 [points, 3], and rgb uint8 [points, 3] or None unless every point has a colour.

    Raises:
      MeshError: the file is malformed or has no points.
    """
    xyz, rgb, count = [], [], 0
    with _mesh_errors(resolver):
        for part, transform in _geometries(data, file_type=file_type, resolver=resolver):
            if isinstance(part, (trimesh.PointCloud, trimesh.Trimesh)) and len(part.vertices):
                if part.vertices.shape[1] != 3:  # an OBJ that ends within its first point
                    raise MeshError("unreadable mesh")
                count += len(part.vertices)
                limits.POINTS.check(count)
                xyz.append(part.vertices @ transform[:3, :3].T + transform[:3, 3])
                colours = np.asarray(getattr(part, "colors", ()))
                rgb.append(colours[:, :3] if len(colours) == len(xyz[-1]) else None)
    if not xyz:
        raise MeshError("no faces and no points")
    coloured = all(colours is not None for colours in rgb)
    return np.concatenate(xyz), np.concatenate(rgb) if coloured else None


@contextlib.contextmanager
def _mesh_errors(resolver: assets.AssetResolver) -> Iterator[None]:
    """Converts the exceptions of trimesh for a malformed file into MeshError."""
    try:
        yield
    except MeshError:
        raise
    except limits.LimitError as error:
        raise MeshError(str(error)) from error
    except _LOADER_ERRORS as error:
        raise MeshError(str(resolver.refusal or "unreadable mesh")) from error
    if resolver.refusal:  # trimesh continues without a file that it cannot read
        raise MeshError(str(resolver.refusal)) from resolver.refusal


def _geometries(
    data: bytes, *, file_type: str, resolver: assets.AssetResolver
) -> Iterator[tuple[trimesh.parent.Geometry, np.ndarray]]:
    """Yields the geometries in the scene of a file with their transforms, float64 [4, 4]."""
    mesh_checks.check(data, file_type=file_type)
    scene = trimesh.load_scene(
        io.BytesIO(data), file_type=file_type, resolver=resolver, process=False
    )
    nodes = scene.graph.nodes_geometry
    limits.PARTS.check(len(nodes))
    for node in nodes:
        transform, geometry = scene.graph[node]
        yield scene.geometry[geometry], transform


def _check_indices(mesh: trimesh.Trimesh) -> None:
    """Checks the vertices and the indices of faces, which trimesh does not; raises MeshError."""
    faces, vertices = np.asarray(mesh.faces), np.asarray(mesh.vertices)
    if vertices.shape[1] != 3 or faces.min() < 0 or faces.max() >= len(vertices):
        raise MeshError("unreadable mesh")


def _assemble(
    parts: list[tuple[trimesh.Trimesh, np.ndarray]],
    faults: list[str],
    plain_colour: tuple[int, int, int, int],
) -> Surface:
    """Joins parts, each with its transform float64 [3, 4], and their textures into a surface."""
    triangles, uvs, textures, opacities, texels = [], [], [], [], 0
    for mesh, transform in parts:
        faces = np.asarray(mesh.faces)
        vertices = mesh.vertices @ transform[:, :3].T + transform[:, 3]
        texture, uv, opacity = materials.appearance(mesh, faults=faults, plain=plain_colour)
        texels += texture.shape[0] * texture.shape[1]
        limits.TEXELS.check(texels)
        with np.errstate(over="ignore"):  # overflows to infinity, which the caller rejects
            triangles.append(vertices[faces].astype(np.float32))
        uvs.append(uv.astype(np.float32))
        textures.append(texture)
        opacities.append(opacity)
    sizes = [texture.shape[0] * texture.shape[1] for texture in textures]
    return Surface(
        triangles=np.concatenate(triangles),
        uv=np.concatenate(uvs),
        part=np.repeat(np.arange(len(parts), dtype=np.int32), [len(t) for t in triangles]),
        texels=np.concatenate([texture.reshape(-1, 4) for texture in textures]),
        offset=np.cumsum([0, *sizes[:-1]], dtype=np.int32),
        width=np.array([texture.shape[1] for texture in textures], np.int32),
        height=np.array([texture.shape[0] for texture in textures], np.int32),
        opacity=np.array(opacities, np.float32),
    )


def rotate_upright(surface: Surface) -> Surface:
    """Rotates a surface from y up to z up."""
    rotation = Y_UP_TO_Z_UP.T.astype(np.float32)
    return dataclasses.replace(surface, triangles=surface.triangles @ rotation)


def colours_at(surface: Surface, faces: np.ndarray, *, weights: np.ndarray) -> np.ndarray:
    """Returns the texture colours at points of a surface: nearest texel, repeated textures.

    Args:
      surface: textured surface.
      faces: int [points], face of each point.
      weights: [points, 3], barycentric coordinates of each point.

    Returns:
      uint8 [points, 4] RGBA; the opacity of the parts is not included in the alpha.
    """
    part = surface.part[faces]
    uv = np.matmul(weights[:, None].astype(np.float32), surface.uv[faces])[:, 0]
    uv -= np.floor(uv)
    width, height = surface.width[part], surface.height[part]
    # A coordinate just below an integer can round up to 1.
    column = np.minimum((uv[:, 0] * width).astype(np.int32), width - 1)
    row = np.minimum(((1 - uv[:, 1]) * height).astype(np.int32), height - 1)
    return surface.texels[surface.offset[part] + row * width + column]


def sample_points(
    surface: Surface, *, points: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Samples coloured points uniformly by area from the visible surface.

    Points in holes of a texture or on invisible parts are sampled again, so that leaves keep their
    outline.

    Args:
      surface: textured surface.
      points: number of points.
      rng: random generator.

    Returns:
      xyz float32 [points, 3] and rgb uint8 [points, 3], in random order.

    Raises:
      MeshError: the surface has no area, or less than about 3% of it is visible.
    """
    edges = surface.triangles[:, 1:].astype(np.float64) - surface.triangles[:, :1]
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    areas[surface.opacity[surface.part] < INVISIBLE_OPACITY] = 0
    ends = np.cumsum(areas)
    if ends[-1] <= 0:
        raise MeshError("no visible area")
    kept_xyz, kept_rgb, missing = [], [], points
    for _ in range(32):  # enough unless less than 3% of the surface is visible
        faces = np.searchsorted(ends, rng.random(points) * ends[-1], side="right")
        faces = np.minimum(faces, len(areas) - 1)
        root, other = np.sqrt(rng.random(points)), rng.random(points)
        weights = np.stack([1 - root, root * (1 - other), root * other], axis=-1)
        rgba = colours_at(surface, faces, weights=weights)
        visible = np.flatnonzero(rgba[:, 3] >= HOLE_ALPHA)[:missing]
        corners = surface.triangles[faces[visible]]
        kept_xyz.append(np.einsum("pcd,pc->pd", corners, weights[visible]).astype(np.float32))
        kept_rgb.append(rgba[visible, :3])
        missing -= len(visible)
        if not missing:
            return np.concatenate(kept_xyz), np.concatenate(kept_rgb)
    raise MeshError("no visible area")
