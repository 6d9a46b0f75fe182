# SPDX-License-Identifier: Apache-2.0
"""Versions and settings that decide the numbers of a run, so that all hosts must agree on them."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

# Packages that compute or decode what a step computes on.
PACKAGES = (
    "array_record",
    "flax",
    "grain",
    "jax",
    "jaxlib",
    "libtpu",
    "ml_collections",
    "ml_dtypes",
    "mrd_jax",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "protobuf",
    "scipy",
    "tensorflow-datasets",
    "tensorstore",
)
# Plugins of JAX for NVIDIA GPUs, by the prefix of their names.
_PLUGINS = "jax-cuda"
# Variables that change what XLA compiles.
VARIABLES = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")
# Options of JAX that change results.
OPTIONS = ("jax_default_matmul_precision", "jax_enable_x64", "jax_threefry_partitionable")
# How hosts get the same packages; for error messages.
REMEDY = (
    "install the same packages on every host (pip install -c constraints.txt -e .) and set the "
    "same variables"
)


def installed() -> dict[str, str]:
    """Returns the version of Python and of every package that decides numbers, if installed."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for distribution in importlib.metadata.distributions():
        name = distribution.name.lower().replace("_", "-")
        if name in _NORMALISED or name.startswith(_PLUGINS):
            versions.setdefault(name, distribution.version)
    return dict(sorted(versions.items()))


def settings() -> dict[str, Any]:
    """Returns versions, variables and options of JAX, as JSON values by name."""
    options: Any = jax.config
    return (
        {f"package {name}": version for name, version in installed().items()}
        | {f"variable {name}": os.environ.get(name, "") for name in VARIABLES}
        | {f"option {name}": getattr(options, name) for name in OPTIONS}
    )


_NORMALISED = frozenset(name.replace("_", "-") for name in PACKAGES)
