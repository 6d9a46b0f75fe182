# SPDX-License-Identifier: Apache-2.0
"""The former name of `mrd_jax.tools.compile`, which takes the same arguments."""

import sys

from mrd_jax.tools import compile as compile_tool

if __name__ == "__main__":
    print(
        "mrd_jax.tools.compile_tpu is now mrd_jax.tools.compile, with the same arguments",
        file=sys.stderr,
    )
    compile_tool.run()
