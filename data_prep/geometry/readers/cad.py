# SPDX-License-Identifier: Apache-2.0
"""CAD models in STEP and IGES files, converted to glTF by Open CASCADE (package cascadio)."""

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from data_prep.foreign import limits
from data_prep.geometry import formats, scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import cad_conversion

_TYPES = {"step": "step", "stp": "step", "iges": "iges", "igs": "iges"}
_SIGNATURES = {"step": b"ISO-10303-21", "iges": b""}
# The library converts lengths of STEP files to metres, and of IGES files to millimetres.
_MILLIMETRE = 1e-3
_GLB_HEADER, _CHUNK_HEADER = 12, 8


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads the solids and surfaces of a CAD model; z is up, and lengths are metres.

    Another process converts the file, because the CAD library may take any time, or end its process
    at corrupt files.

    Args:
      data: bytes of the file.
      assets: collects the notes.
      file_type: "step", "stp", "iges" or "igs".

    Raises:
      scene.MeshError: the file is corrupt, has no surfaces, or takes too long.
      limits.LimitError: the converted model exceeds a limit.
    """
    kind = _TYPES[file_type]
    if _SIGNATURES[kind] not in data[:256]:
        raise scene.MeshError(f"no {kind.upper()} file; it must begin with ISO-10303-21")
    header, tree, binary = _split(_convert(data, kind=kind))
    parts = []
    for coloured in (True, False):
        glb = _join(header, _selected(tree, coloured=coloured), binary)
        found = formats.reader("glb")(glb, assets=assets, file_type="glb").parts
        # The standard of glTF makes a primitive without a material white.
        parts += found if coloured else [scene.Part(part.triangles) for part in found]
    if not parts:
        raise scene.MeshError("no surfaces, or corrupt ones")
    if kind == "iges":
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
    return {**tree, "nodes": nodes, "meshes": kept}


def _convert(data: bytes, *, kind: str) -> bytes:
    """Converts a CAD model to a GLB file in another process."""
    seconds = limits.CAD_SECONDS.maximum()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / f"model.{kind}", Path(folder) / "model.glb"
        source.write_bytes(data)
        # -P: modules beside the script must not hide packages.
        command = [
            *(sys.executable, "-P", cad_conversion.__file__, kind, str(source), str(target)),
            *(str(seconds), str(limits.CAD_BYTES.maximum())),
        ]
        try:
            # The library prints to standard output; it sleeps never, so that the limit of CPU time
            # in the process suffices where the caller is killed.
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise scene.MeshError(
                f"too complex; its conversion takes longer than {seconds} s; set "
                f"{limits.CAD_SECONDS.variable} if you trust it"
            ) from error
        if done.returncode or not target.is_file():
            raise scene.MeshError(f"unreadable {kind.upper()} file: {_reason(done)}")
        return limits.read_file(target)


def _reason(done: subprocess.CompletedProcess) -> str:
    """Returns why the conversion failed."""
    if done.returncode == cad_conversion.NO_SURFACES:
        return "it has no surfaces, or corrupt ones"
    if done.returncode == cad_conversion.OUT_OF_MEMORY:
        variable = limits.CAD_BYTES.variable
        return f"its conversion takes too much memory; set {variable} if you trust it"
    lines = done.stderr.decode(errors="replace").strip().split("\n")
    return f"the conversion ended with status {done.returncode} {lines[-1][:200]}".strip()
