# SPDX-License-Identifier: Apache-2.0
"""Worker process that reads untrusted uploads, see `mrd_jax.demo.worker_pool`.

Reads one JSON object per line from stdin: `path`, and `output`, the npz file to write. Answers with
one JSON object per line: `kind` ("cloud" or "picture") and `faults`; or `error` and
`out_of_memory`, in which case another process should read the next file.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import pictures
from data_prep.foreign import limits
from data_prep.geometry import clouds, formats, meshes
from mrd_jax.search import display_meshes, manifest

# Larger meshes are shown as point clouds: to reduce them takes seconds.
_MAX_FACES = 250_000


def read(path: Path, output: Path, *, conventions: clouds.Conventions) -> dict[str, Any]:
    """Reads a file and writes its arrays.

    Args:
      path: mesh, point cloud or picture, by its suffix.
      output: npz file to write: `xyz` [points, 3], `rgb` [points, 3] and `mesh`, the bytes of a glb
        file; or `picture` [height, width, 3].
      conventions: conventions of the point cloud.

    Returns:
      The answer: `kind` and `faults`, or `error` and `out_of_memory`.
    """
    try:
        if formats.suffix(path) in formats.TYPES:
            # The root: an upload may refer to nothing outside of its own folder.
            content = clouds.read_content(path, fill=conventions.colour_fill, root=path.parent)
            cloud = clouds.make_cloud(content, path=path, conventions=conventions)
            mesh = np.frombuffer(_mesh_of(content, path, conventions), np.uint8)
            np.savez(output, xyz=cloud.xyz, rgb=cloud.rgb, mesh=mesh)
            return {"kind": "cloud", "faults": list(cloud.faults)}
        picture = pictures.read(limits.read_file(path))
        np.savez(output, picture=np.asarray(picture))
        return {"kind": "picture", "faults": []}
    except (ValueError, OSError, MemoryError, formats.MissingPackageError) as error:
        # Readers may wrap a MemoryError in another exception.
        return {"error": str(error), "out_of_memory": _is_memory_error(error)}


def _mesh_of(content: meshes.Content, path: Path, conventions: clouds.Conventions) -> bytes:
    """Returns the reduced mesh of a file; b"" for a point cloud, and for a very large mesh."""
    if content.surface is None or len(content.surface.triangles) > _MAX_FACES:
        return b""
    up = clouds.vertical_axis(path, content, stated=None).up
    return display_meshes.of_content(
        content, up=up, conventions=conventions, max_faces=manifest.MESH_FACES
    )


def _is_memory_error(error: BaseException | None) -> bool:
    """Returns whether an exception is a MemoryError or was caused by one."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__
    return error is not None


def _limit_memory(size: int) -> None:
    """Limits the address space of this process to `size` bytes."""
    try:
        import resource
    except ModuleNotFoundError:  # not a POSIX system
        return
    hard_limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard_limit == resource.RLIM_INFINITY or hard_limit > size:
        resource.setrlimit(resource.RLIMIT_AS, (size, hard_limit))


def main() -> None:
    """Reads files until stdin is closed."""
    # Ctrl-C in a terminal signals this process, too; the server closes stdin when it stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.argv[1])
    _limit_memory(settings["memory"])
    # Redirect stdout to stderr, so that output of libraries is not read as an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    conventions = clouds.Conventions(**settings["conventions"])
    clouds.check_readable([Path("warm.glb")])  # imports the mesh libraries before the first file
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        answer = read(Path(task["path"]), Path(task["output"]), conventions=conventions)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
