# SPDX-License-Identifier: Apache-2.0
"""The process that opens files of strangers, so that it can be killed; see `mrd_jax.demo.pool`.

Reads a JSON object a line from its standard input: `path`, and `output`, an npz file to write.
Answers with a JSON object a line: `kind` ("cloud" or "picture") and `faults`, or `error`; with
`spent` where the memory ran out, after which another process should take the next file.
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
from data_prep.geometry import clouds


def read(path: Path, output: Path, *, conventions: clouds.Conventions) -> dict[str, Any]:
    """Turns a file into arrays.

    Args:
      path: of a mesh, a cloud or a picture, by its ending.
      output: npz file to write: xyz [points, 3] and rgb [points, 3], or picture
        [height, width, 3].
      conventions: of clouds.

    Returns:
      kind and faults; or error, and spent where the memory ran out.
    """
    try:
        if path.suffix[1:].lower() in clouds.TYPES:
            cloud = clouds.read_cloud(path, conventions=conventions)
            np.savez(output, xyz=cloud.xyz, rgb=cloud.rgb)
            return {"kind": "cloud", "faults": list(cloud.faults)}
        picture = pictures.read(limits.read_file(path))
        np.savez(output, picture=np.asarray(picture))
        return {"kind": "picture", "faults": []}
    except (ValueError, OSError, MemoryError, clouds.MeshesUnsupportedError) as error:
        # Readers call a file unreadable whatever they stumbled over.
        return {"error": str(error), "spent": _ran_out(error)}


def _ran_out(error: BaseException | None) -> bool:
    """Whether an error is or stems from a lack of memory."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__
    return error is not None


def _limit_memory(size: int) -> None:
    """Lets this process, and nothing else, run out of memory."""
    try:
        import resource
    except ModuleNotFoundError:  # no such limits on this system
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    if most == resource.RLIM_INFINITY or most > size:
        resource.setrlimit(resource.RLIMIT_AS, (size, most))


def main() -> None:
    """Answers until its standard input ends."""
    # Ctrl-C in a terminal reaches this process, too; its standard input ends all the same.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.argv[1])
    _limit_memory(settings["memory"])
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    conventions = clouds.Conventions(**settings["conventions"])
    clouds.check_readable([Path("warm.glb")])  # imports what meshes need, before the first comes
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        answer = read(Path(task["path"]), Path(task["output"]), conventions=conventions)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
