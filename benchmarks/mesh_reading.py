# SPDX-License-Identifier: Apache-2.0
"""Measures the CPU time to read and sample the meshes of the furniture catalogues.

python -m benchmarks.mesh_reading --input data/sweethome3d

Prints one JSON line with milliseconds of CPU per mesh: `load_ms` (unpacks and reads the mesh, its
materials and its textures) and `sample_ms` (samples 10,000 coloured points), each as the mean over
all meshes in one thread; and the slowest mesh.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_prep import shapes
from data_prep.sources import furniture, surfaces
from mrd_jax.cli import command

POINTS = 10_000


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the meshes and prints the result."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.mesh_reading")
    add = parser.add_argument
    add("--input", required=True, type=Path, help="folder of the .sh3f catalogues")
    add("--every", type=int, default=1, help="read only every n-th mesh; default: %(default)s")
    options = parser.parse_args(arguments)
    items = furniture.Furniture(test="").items(options.input)[:: options.every]
    load, sample, names = [], [], []
    for item in items:
        start = time.process_time()
        try:
            content = furniture.load(item)
            loaded = time.process_time()
            surfaces.sample(content.surface, points=POINTS, seed=0, shape_id=item.id)
        except shapes.SkipShape:
            continue
        names.append(item.id)
        load.append(loaded - start)
        sample.append(time.process_time() - loaded)
    totals = [sum(pair) for pair in zip(load, sample, strict=True)]
    slowest = max(range(len(totals)), key=totals.__getitem__)
    result = {
        "meshes": len(totals),
        "skipped": len(items) - len(names),
        "load_ms": round(1000 * sum(load) / len(load), 2),
        "sample_ms": round(1000 * sum(sample) / len(sample), 2),
        "total_ms": round(1000 * sum(totals) / len(totals), 2),
        "slowest_ms": round(1000 * totals[slowest], 1),
        "slowest": names[slowest],
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
