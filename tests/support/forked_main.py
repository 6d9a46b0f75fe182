# SPDX-License-Identifier: Apache-2.0
"""Runs `python -m mrd_jax.main` with several command lines, for the price of one import.

A process imports once and then forks for every command line: importing JAX takes seconds.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import io, json, os, sys
from absl import app
import jax
from mrd_jax import main

cases = json.loads(sys.argv[1])
results = {"": (0, str(jax.config.jax_compilation_cache_dir))}
for name, arguments in cases.items():
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.dup2(writer, 2)
        os.dup2(writer, 1)
        sys.argv = ["main", *arguments]
        main.run()
        sys.exit()
    os.close(writer)
    with os.fdopen(reader) as file:
        output = file.read()
    results[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output
print(json.dumps(results))
"""


def run(cases):
    """Returns {name: (exit status, output)} of command lines {name: arguments}.

    The name "" has the folder of JAX's compilation cache after the import, as text.
    """
    variables = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(cases)],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
