# SPDX-License-Identifier: Apache-2.0
"""CAD models in STEP and IGES files, converted to glTF by Open CASCADE (package cascadio)."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.geometry import formats, scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import isolated

# Largest distance between a surface and its triangles, as a part of the length of an edge, and
# largest angle between neighbouring triangles of a curved surface, in radians: the triangles of a
# sphere are within 0.5% of its radius. Relative, so that the result does not depend on the size of
# the model and on its unit. Other values change the clouds of all CAD models.
RELATIVE_TOLERANCE = 0.01
ANGULAR_TOLERANCE = 0.2
# The library converts lengths of STEP files to metres, and of IGES files to millimetres.
_MILLIMETRE = 1e-3
_GLB_HEADER, _CHUNK_HEADER = 12, 8


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads the solids and surfaces of a CAD model; z is up, and lengths are metres.

    Args:
      data: bytes of the file.
      assets: collects the notes.
      file_type: "step", "stp", "iges" or "igs".

    Raises:
      scene.MeshError: the file is corrupt, has no surfaces, or takes too long.
      limits.LimitError: the converted model exceeds a limit.
    """
    is_step = file_type in ("step", "stp")
    if is_step != _is_step(data):
        other = "begin" if is_step else "not begin"
        raise scene.MeshError(f"no {file_type} file; it must {other} with ISO-10303-21")
    name = "STEP" if is_step else "IGES"
    arrays = isolated.run("cad", data, name=name, notes=assets.notes)
    header, tree, binary = _split(arrays["glb"].tobytes())
    parts = []
    for coloured in (True, False):
        glb = _join(header, _selected(tree, coloured=coloured), binary)
        found = formats.reader("glb")(glb, assets=assets, file_type="glb").parts
        # The standard of glTF makes a primitive without a material white.
        parts += found if coloured else [scene.Part(part.triangles) for part in found]
    if not parts:
        raise scene.MeshError("no surfaces, or corrupt ones")
    if not is_step:
        parts = [scene.Part(part.triangles * _MILLIMETRE) for part in parts]
        if _has_iges_colours(data):
            assets.notes.append("colours of IGES files, ignored")
    return scene.Scene(tuple(parts), up_axis="z")


def _has_iges_colours(data: bytes) -> bool:
    """Returns whether an entry of the directory of an IGES file has a colour.

    An entry has two lines of 80 columns, with D in column 73; columns 17 to 24 of the second are
    the colour, 0 or blank for none.
    """
    directory = [line for line in data.splitlines() if line[72:73] == b"D"]
    return any(line[16:24].strip() not in (b"", b"0") for line in directory[1::2])


def _split(glb: bytes) -> tuple[bytes, dict[str, Any], bytes]:
    """Splits a GLB file into its header, the tree, and the chunks after it."""
    (length,) = struct.unpack_from("<I", glb, _GLB_HEADER)
    start = _GLB_HEADER + _CHUNK_HEADER
    return glb[:_GLB_HEADER], json.loads(glb[start : start + length]), glb[start + length :]


def _join(header: bytes, tree: dict[str, Any], binary: bytes) -> bytes:
    """Returns a GLB file; the reverse of `_split`."""
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    size = _GLB_HEADER + _CHUNK_HEADER + len(text) + len(binary)
    return header[:8] + struct.pack("<II4s", size, len(text), b"JSON") + text + binary


def _selected(tree: dict[str, Any], *, coloured: bool) -> dict[str, Any]:
    """Returns a tree with the triangles that have a material, or those without; no edges."""
    meshes = [
        [
            primitive
            for primitive in mesh["primitives"]
            if primitive.get("mode", 4) == 4 and ("material" in primitive) == coloured
        ]
        for mesh in tree.get("meshes", ())
    ]
    nodes = [{k: v for k, v in node.items() if k != "mesh" or meshes[v]} for node in tree["nodes"]]
    # A mesh must not be empty; those that no node names are not read.
    kept = [
        {**mesh, "primitives": chosen or mesh["primitives"]}
        for mesh, chosen in zip(tree.get("meshes", ()), meshes, strict=True)
    ]
    # Without the generator, which the reader of glTF files notes: here, the axis is known.
    return {**tree, "asset": {"version": "2.0"}, "nodes": nodes, "meshes": kept}


def convert(path: Path, *, notes: list[str]) -> dict[str, np.ndarray]:
    """Converts a CAD model; see `isolated`.

    Raises:
      scene.MeshError: it has no surfaces.
    """
    del notes
    # The library has an optional part for trimesh, whose import takes longer than most files.
    sys.modules.setdefault("trimesh", None)  # type: ignore[arg-type]
    import cascadio

    data = path.read_bytes()
    glb = cascadio.load(
        data,
        file_type="step" if _is_step(data) else "iges",
        tol_linear=RELATIVE_TOLERANCE,
        tol_angular=ANGULAR_TOLERANCE,
        tol_relative=True,
        use_parallel=False,
    )
    if not glb:
        raise scene.MeshError("no surfaces, or corrupt ones")
    return {"glb": np.frombuffer(glb, np.uint8)}


def _is_step(data: bytes) -> bool:
    """Returns whether a file begins as STEP files do."""
    return b"ISO-10303-21" in data[:256]
