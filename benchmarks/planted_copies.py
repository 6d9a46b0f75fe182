# SPDX-License-Identifier: Apache-2.0
"""Plants changed copies of furniture models in a folder, for `benchmarks.duplicates`."""

import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from scipy import spatial

from data_prep.geometry import clouds
from data_prep.geometry.surface import sample_points

KINDS = ("rotated", "scaled", "recoloured", "remeshed", "all")
# Largest edge of a re-meshed copy, and the grid that its corners are moved to, as fractions of the
# largest side of the model.
_EDGE, _GRID = 0.05, 1 / 200
_COLOUR_POINTS = 10_000
_VERTEX = re.compile(r"^(vn?)\s+(\S+)\s+(\S+)\s+(\S+)", re.MULTILINE)


def extract(catalogues: Path, folder: Path) -> list[Path]:
    """Extracts the models of all catalogues, with their materials and textures.

    Args:
      catalogues: folder with .sh3f files.
      folder: folder to extract to.

    Returns:
      The OBJ files, relative to `folder`, sorted.

    Raises:
      FileNotFoundError: the folder has no catalogue.
    """
    archives = sorted(catalogues.glob("*.sh3f"))
    if not archives:
        raise FileNotFoundError(
            f"{catalogues} has no .sh3f file; download them with python -m data_prep.fetch"
        )
    for archive in archives:
        with zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if "/" in name]
            file.extractall(folder / archive.stem, names)
    return sorted(path.relative_to(folder) for path in folder.rglob("*.obj"))


def plant(
    folder: Path, models: Sequence[Path], *, output: Path, count: int, seed: int
) -> dict[str, str]:
    """Writes a copy of each kind of randomly chosen models.

    Args:
      folder: folder of the models.
      models: OBJ files, relative to `folder`.
      output: folder of the copies.
      count: number of models to copy.
      seed: seed of the choice and of the changes.

    Returns:
      The model of each copy, paths relative to `folder` and to `output`.
    """
    rng = np.random.default_rng(seed)
    truth: dict[str, str] = {}
    order = iter(rng.permutation(len(models)))
    while len(truth) < count * len(KINDS):
        source = models[next(order)]
        try:
            for kind in KINDS:
                place = Path(kind) / f"{len(truth) // len(KINDS)}"
                copy = _copy(folder / source, output / place, kind, rng)
                truth[str(copy.relative_to(output))] = str(source)
        except clouds.CloudError:  # models without an area have no copies
            truth = {copy: model for copy, model in truth.items() if model != str(source)}
    return truth


def _copy(source: Path, folder: Path, kind: str, rng: np.random.Generator) -> Path:
    if kind in ("remeshed", "all"):
        turn = _rotation(rng) * 3.0 if kind == "all" else np.eye(3)
        colour = rng.integers(0, 256, 3) if kind == "all" else None
        folder.mkdir(parents=True, exist_ok=True)
        return _remesh(source, folder / "copy.ply", turn=turn, colour=colour)
    shutil.copytree(source.parent, folder, dirs_exist_ok=True)
    for other in folder.rglob("*.obj"):
        if other.name != source.name:
            other.unlink()
    target = folder / source.name
    if kind == "rotated":
        _move(target, _rotation(rng))
    elif kind == "scaled":
        _move(target, np.eye(3) * rng.uniform(0.1, 10))
    else:
        _recolour(folder, rng)
    return target


def _rotation(rng: np.random.Generator) -> np.ndarray:
    return spatial.transform.Rotation.random(rng=rng).as_matrix()


def _move(path: Path, matrix: np.ndarray) -> None:
    """Multiplies the corners and normals of an OBJ file by a matrix [3, 3]."""

    def moved(match: re.Match) -> str:
        values = matrix @ np.array([float(match[i]) for i in (2, 3, 4)])
        return "{} {:.9g} {:.9g} {:.9g}".format(match[1], *values)

    text = path.read_text("latin-1")
    path.write_text(_VERTEX.sub(moved, text), "latin-1")


def _recolour(folder: Path, rng: np.random.Generator) -> None:
    """Replaces the materials of all MTL files by plain colours."""

    def colour(_: re.Match) -> str:
        return "Kd {:.3f} {:.3f} {:.3f}".format(*rng.random(3))

    for path in folder.rglob("*.mtl"):
        text = re.sub(r"^\s*map_\w+ .*$", "", path.read_text("latin-1"), flags=re.MULTILINE)
        path.write_text(re.sub(r"^\s*Kd .*$", colour, text, flags=re.MULTILINE), "latin-1")


def _remesh(source: Path, target: Path, *, turn: np.ndarray, colour: np.ndarray | None) -> Path:
    """Writes other triangles of the same surface, with corners moved to a grid."""
    surface = clouds.read_content(source, fill=0.4).surface
    if surface is None:
        raise clouds.CloudError("no surface")
    corners = surface.triangles.reshape(-1, 3).astype(np.float64)
    side = np.ptp(corners, axis=0).max()
    vertices, faces = trimesh.remesh.subdivide_to_size(
        corners, np.arange(len(corners)).reshape(-1, 3), max_edge=_EDGE * side, max_iter=12
    )
    snapped, index = np.unique(
        np.rint(vertices / (_GRID * side)).astype(int), axis=0, return_inverse=True
    )
    faces = index.reshape(-1)[faces]
    sides = faces[:, [0, 1, 0]] != faces[:, [1, 2, 2]]
    faces = np.unique(faces[sides.all(axis=1)], axis=0)
    vertices = snapped * _GRID * side
    xyz, rgb = sample_points(surface, points=_COLOUR_POINTS, rng=np.random.default_rng(0))
    nearest = spatial.KDTree(xyz).query(vertices)[1]
    rgb = np.asarray(rgb)[nearest]
    rgb = np.rint(rgb * 255).astype(np.uint8) if rgb.dtype.kind == "f" else rgb
    if colour is not None:
        rgb = np.broadcast_to(colour.astype(np.uint8), rgb.shape)
    mesh = trimesh.Trimesh(vertices @ turn.T, faces, vertex_colors=rgb, process=False)
    target.write_bytes(mesh.export(file_type="ply"))
    return target
