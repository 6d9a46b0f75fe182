# SPDX-License-Identifier: Apache-2.0
"""Script that converts a CAD model to a GLB file; `cad` runs it in a process of its own.

Arguments: type ("step" or "iges"), source, target, limit of CPU seconds, limit of memory in bytes.
It imports nothing of this project, so that it starts fast.
"""

import sys
from pathlib import Path

# Exit statuses.
NO_SURFACES, OUT_OF_MEMORY = 3, 4
# Largest distance between a surface and its triangles, as a part of the length of an edge, and
# largest angle between neighbouring triangles of a curved surface, in radians: the triangles of a
# sphere are within 0.5% of its radius. Relative, so that the result does not depend on the size of
# the model and on its unit. Other values change the clouds of all CAD models.
RELATIVE_TOLERANCE = 0.01
ANGULAR_TOLERANCE = 0.2


def main() -> int:
    """Converts a file; returns the exit status."""
    kind, source, target, seconds, memory = sys.argv[1:]
    _limit(int(seconds), int(memory))
    import cascadio

    try:
        glb = cascadio.load(
            Path(source).read_bytes(),
            file_type=kind,
            tol_linear=RELATIVE_TOLERANCE,
            tol_angular=ANGULAR_TOLERANCE,
            tol_relative=True,
            use_parallel=False,
        )
    except MemoryError:
        return OUT_OF_MEMORY
    if not glb:
        return NO_SURFACES
    Path(target).write_bytes(glb)
    return 0


def _limit(seconds: int, memory: int) -> None:
    """Limits CPU time and address space of this process, on POSIX systems."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, size in ((resource.RLIMIT_CPU, seconds + 1), (resource.RLIMIT_AS, memory)):
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or hard > size:
            resource.setrlimit(kind, (size, hard))


if __name__ == "__main__":
    sys.exit(main())
