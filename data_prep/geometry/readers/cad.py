# SPDX-License-Identifier: Apache-2.0
"""CAD models in STEP and IGES files, converted to glTF by Open CASCADE (package cascadio)."""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

from data_prep.foreign import limits
from data_prep.geometry import formats, scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import cad_conversion

_TYPES = {"step": "step", "stp": "step", "iges": "iges", "igs": "iges"}
_SIGNATURES = {"step": b"ISO-10303-21", "iges": b""}


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
    glb = _convert(data, kind=kind)
    found = formats.reader("glb")(glb, assets=assets, file_type="glb")
    if not found.parts:
        raise scene.MeshError("no surfaces, or corrupt ones")
    return dataclasses.replace(found, up_axis="z", points=())


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
