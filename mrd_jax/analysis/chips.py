# SPDX-License-Identifier: Apache-2.0
"""TPU generations: published figures of a chip, and abstract devices of a slice."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

# Lets the compiler run without a TPU, and in several processes at once.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

_GIB = 2**30


class MissingCompilerError(RuntimeError):
    """Raised if libtpu, the package with the TPU compiler, is not installed."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one TPU generation, from cloud.google.com/tpu/docs/v4, v5e, v5p and v6e.

    Attributes:
      peak: peak dense bfloat16 FLOP/s.
      bandwidth: memory bandwidth in bytes per second.
      memory: bytes of main memory (HBM). The published "GB" are GiB; of the v5e's 16 GiB, a program
        can use 15.75.
      clock: cycles per second. Published for v4 (1,050 MHz), derived for the others from the peak
        and from the number and size of the matrix units (v6e: two units of 256 x 256 with two
        products per cycle).
      example: example of a slice, for error messages.
      accelerator: libtpu's accelerator type of a single-host slice.
      options: further options of `get_topology_desc`. On v4, the two cores of a chip form one
        device (megacore), as in training.
    """

    peak: float
    bandwidth: float
    memory: int
    clock: float
    example: str
    accelerator: str
    options: dict[str, str] = dataclasses.field(default_factory=dict)


CHIPS = {
    "v4": Chip(
        275e12, 1228e9, 32 * _GIB, 1.05e9, "v4:4x4x4", "v4-8", {"chip_config_name": "megacore"}
    ),
    "v5e": Chip(197e12, 819e9, 16 * _GIB, 1.5e9, "v5e:16x16", "v5litepod-4"),
    "v5p": Chip(459e12, 2765e9, 95 * _GIB, 1.75e9, "v5p:4x4x4", "v5p-8"),
    "v6e": Chip(918e12, 1640e9, 32 * _GIB, 1.75e9, "v6e:8x8", "v6e-4"),
}


def parse_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """Parses the name of a slice, such as "v5e:16x16".

    Returns:
      The TPU generation, and the number of chips along each axis.

    Raises:
      ValueError: the name is malformed or the generation is unknown.
    """
    examples = ", ".join(chip.example for chip in CHIPS.values())
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
    if match is None or match[1] not in CHIPS:
        raise ValueError(
            f"--topology is {topology!r}; expected a TPU generation and the number of chips along "
            f"each axis, such as {examples}"
        )
    dims = tuple(int(dim) for dim in match[2].split("x"))
    chip = CHIPS[match[1]]
    if len(dims) != chip.example.count("x") + 1 or 0 in dims:
        raise ValueError(f"--topology is {topology!r}; expected a slice such as {chip.example}")
    return chip, dims


def count_chips(topology: str) -> int:
    """Returns the number of chips of a slice or a set of nodes, such as "v5e:8x8" or "h100:2x8".

    Raises:
      ValueError: the name is malformed.
    """
    match = re.fullmatch(r"\w+(?:-\w+)?:(\d+(?:x\d+)*)", topology)
    count = math.prod(map(int, match[1].split("x"))) if match else 0
    if not count:
        raise ValueError(
            f"--topology is {topology!r}; expected a kind of chip and their number along each "
            "axis, such as v5e:8x8 or h100:8"
        )
    return count


def make_devices(topology: str) -> Sequence[jax.Device]:
    """Returns abstract devices of a slice: programs can be compiled for them, but not run.

    Sets the variables in `ENVIRONMENT`, except those that are set already, and the accelerator
    type of the slice.

    Raises:
      MissingCompilerError: libtpu is not installed.
      ValueError: the slice does not exist.
    """
    chip, dims = parse_topology(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise MissingCompilerError(
            "the TPU compiler (libtpu) is not installed; it does not need a TPU: "
            '`pip install -e ".[tpu]"` (Linux on x86_64)'
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Always, since `mrd_jax.cli.logs` may have set the type of another generation.
    os.environ["TPU_ACCELERATOR_TYPE"] = chip.accelerator
    # A host has 2 x 2 chips, unless the slice is narrower.
    hosts = (*(2 if dim % 2 == 0 else 1 for dim in dims[:2]), 1)
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chips_per_host_bounds=hosts, **chip.options
        )
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"--topology is {topology!r}, which the TPU compiler rejects ({error}); "
            f"expected a slice such as {chip.example}"
        ) from error
    return tuple(description.devices)
