# SPDX-License-Identifier: Apache-2.0
"""Compares the readers with two independent ones on a folder of mesh files that nobody here wrote.

python tests/support/corpus.py FOLDER > outcomes.jsonl

Reads every file of a supported type as `inspect` does, and with assimp (package assimp_py) and
trimesh, each in a process of its own, since a reader may crash. Prints one JSON line per file:
`file`, `outcome`, `extent`, and what the other readers found. Outcomes: "equal" (the extents equal
those of one of the others), "refused" (by us, with `error`), "differs", and "alone" (neither of the
others reads the file).
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from data_prep.geometry import formats
from mrd_jax.search import inspection

SECONDS = 60
# Relative difference of extents that counts as equal: the others round coordinates to float32.
TOLERANCE = 1e-4


def extent_by_assimp(path: Path) -> list[float]:
    """Returns the extents of all triangles of a file by assimp, transforms applied."""
    import assimp_py

    flags = assimp_py.Process_Triangulate | assimp_py.Process_PreTransformVertices
    scene = assimp_py.import_file(str(path), flags)
    corners = []
    for mesh in scene.meshes:
        vertices = np.asarray(mesh.vertices, np.float64).reshape(-1, 3)
        corners.append(vertices[np.unique(np.asarray(mesh.indices))])
    return np.ptp(np.concatenate(corners), axis=0).tolist()


def extent_by_trimesh(path: Path) -> list[float]:
    """Returns the extents of all faces of a file by trimesh, transforms applied."""
    import trimesh

    scene = trimesh.load_scene(str(path), process=False)
    corners = []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        mesh = scene.geometry[name]
        vertices = np.asarray(mesh.vertices)
        if len(getattr(mesh, "faces", ())):
            vertices = vertices[np.unique(mesh.faces)]
        corners.append(vertices @ transform[:3, :3].T + transform[:3, 3])
    return np.ptp(np.concatenate(corners), axis=0).tolist()


OTHERS = {"assimp": extent_by_assimp, "trimesh": extent_by_trimesh}


def compare(path: Path) -> dict:
    """Returns the outcome of one file."""
    facts = inspection.inspect_file(path).facts
    result = {"file": str(path), "kind": facts.kind, "extent": facts.extent}
    result |= {"notes": facts.notes, "error": facts.error}
    found = {name: _other(name, path) for name in OTHERS}
    result |= found
    extents = [value for value in found.values() if isinstance(value, list)]
    if facts.error:
        return result | {"outcome": "refused"}
    if not extents:
        return result | {"outcome": "alone"}
    is_equal = any(_equal(facts.extent, extent) for extent in extents)
    return result | {"outcome": "equal" if is_equal else "differs"}


def _equal(ours: list[float], theirs: list[float]) -> bool:
    return np.allclose(ours, theirs, rtol=0, atol=TOLERANCE * max(ours + theirs))


def _other(name: str, path: Path) -> list[float] | str:
    """Reads a file with another reader in a process of its own; returns extents or the error."""
    command = [sys.executable, __file__, "--extent", name, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "timeout"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return lines[-1][:200]
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Compares the files of a folder, or prints the extent of one file by another reader."""
    if arguments[0] == "--extent":
        print(json.dumps(OTHERS[arguments[1]](Path(arguments[2]))))
        return
    for path in sorted(Path(arguments[0]).rglob("*")):
        if path.is_file() and formats.suffix(path) in formats.TYPES:
            print(json.dumps(compare(path)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
