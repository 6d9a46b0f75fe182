# SPDX-License-Identifier: Apache-2.0
"""Times the training step on one GPU, and the same step of a peer's PyTorch code.

python -m benchmarks.peers --peer openshape-4 --code ~/OpenShape_code \
    --torch_python ~/openshape-env/bin/python

The peer's code is read from a clone that you provide (github.com/Colin97/OpenShape_code or
github.com/baaivision/Uni3D) and runs in its own environment, in every mode of PyTorch: bfloat16
autocast and TF32, eager and compiled. Batch, points and dtype are the same on both sides, and the
two sides run one after the other. Without `--code`, only this project's step is timed. Prints one
JSON line; "ratio" is this project's samples per second over those of PyTorch's best mode.
"""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from benchmarks.peers import sizes
from mrd_jax.cli import command


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Raises:
      ValueError: `--code` is not a clone of the peer's repository, or `--torch_python` is missing.
    """
    parser = command.Parser(__doc__, prog="python -m benchmarks.peers")
    parser.add_argument("--peer", choices=sizes.PEERS, required=True, help="student to compare")
    parser.add_argument("--code", type=pathlib.Path, help="clone of the peer's repository")
    parser.add_argument(
        "--torch_python", type=pathlib.Path, help="Python with torch and the peer's requirements"
    )
    parser.add_argument("--batch", type=int, default=64, help="point clouds per step")
    parser.add_argument("--points", type=int, default=10_000, help="points per point cloud")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--steps", type=int, default=30, help="timed steps; reports their median")
    parser.add_argument("--warm_up", type=int, default=10, help="steps before them")
    parser.add_argument("--device", default="cuda", help="PyTorch's device")
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("batch", "points", "steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; expected at least 1")
    peer = sizes.PEERS[options.peer]
    if options.code is None:
        return options
    if not (options.code / peer.file).is_file():
        raise ValueError(
            f"--code is {options.code}, which has no {peer.file}; expected a clone of "
            f"{peer.repository}"
        )
    if options.torch_python is None or not options.torch_python.is_file():
        raise ValueError(
            f"--torch_python is {options.torch_python}; expected the Python of an environment with "
            f"torch and the requirements of {peer.repository}"
        )
    return options


def make_config(options: argparse.Namespace) -> ConfigDict:
    """Returns the experiment of this project with the peer's student and objective."""
    module = importlib.import_module(f"configs.{sizes.PEERS[options.peer].config}")
    config = module.get_config()
    config.batch_size = options.batch
    config.data.points = config.model.points = options.points
    config.model.out_dim = config.teacher.dim = sizes.PEERS[options.peer].dim
    config.model.dtype = options.dtype
    # The peers keep all activations.
    config.model.remat = False
    config.initial_weights = ""
    return config


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Returns PyTorch's best mode and the ratio of the samples per second.

    Args:
      ours: result of `ours.measure`.
      theirs: by mode of PyTorch, such a result or its "error".
    """
    rates = {mode: found["samples_per_s"] for mode, found in theirs.items() if "error" not in found}
    if not rates:
        return {"best": None, "ratio": None}
    best = max(rates, key=rates.__getitem__)
    return {"best": best, "ratio": round(ours["samples_per_s"] / rates[best], 3)}


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Times both sides and prints the comparison; exit status 1 if no mode of PyTorch ran."""
    options = parse_options(arguments)
    if options.ours:
        from benchmarks.peers import ours

        config = make_config(options)
        print(json.dumps(ours.measure(config, steps=options.steps, warm_up=options.warm_up)))
        return 0
    sizes_of = [
        f"--{name}={getattr(options, name)}"
        for name in ("peer", "batch", "points", "dtype", "steps", "warm_up")
    ]
    report = {"benchmark": "peers", "peer": options.peer, "batch": options.batch}
    report |= {"points": options.points, "dtype": options.dtype}
    # Each side in a process of its own: JAX keeps the memory that it has allocated.
    report["ours"] = _run([sys.executable, "-m", "benchmarks.peers", "--ours", *sizes_of])
    if options.code is None:
        print(json.dumps(report))
        return 0
    script = pathlib.Path(__file__).with_name("theirs.py")
    flags = [*sizes_of, f"--code={options.code}", f"--device={options.device}"]
    report["theirs"] = _run([str(options.torch_python), str(script), *flags])
    report |= compare(report["ours"], report["theirs"])
    print(json.dumps(report))
    return int(report["ratio"] is None)


def _run(words: list[str]) -> dict[str, Any]:
    """Runs a command and returns the JSON object on the last line of its output."""
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise ValueError(f"{' '.join(words)} failed with exit status {done.returncode}; see above")
    return json.loads(lines[-1])


if __name__ == "__main__":
    sys.exit(main())
