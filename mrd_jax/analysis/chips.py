# SPDX-License-Identifier: Apache-2.0
"""TPU generations: what is published of a chip, and the devices of a slice that is not there."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

# So that the compiler runs where there is no TPU, and several processes at once.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

_GIB = 2**30


class MissingCompilerError(RuntimeError):
    """The package with the TPU compiler is not installed."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation; figures from cloud.google.com/tpu/docs/v4, v5e, v5p and v6e.

    Attributes:
      peak: dense bfloat16 operations a second.
      bandwidth: bytes a second from main memory.
      memory: bytes of main memory, published in "GB" that are GiB: of the v5e's 16, the compiler
        gives 15.75 to a program.
      clock: cycles a second. Published for v4 (1,050 MHz); for the others what peak, number and
        size of the matrix units give (v6e: two units of 256 x 256, at two products a cycle).
      example: a slice, to name in errors.
      accelerator: what libtpu calls a slice of one host.
      options: of `get_topology_desc`. On v4, both cores of a chip are one device, as in training.
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


def find(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The generation that a name such as "v5e:16x16" begins with, and its chips along each axis.

    Raises:
      ValueError: the name does not read so, or there is no such generation.
    """
    examples = ", ".join(chip.example for chip in CHIPS.values())
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
    if match is None or match[1] not in CHIPS:
        raise ValueError(
            f"--topology is {topology!r}; expected a generation and the chips along each axis, "
            f"such as {examples}"
        )
    dims = tuple(int(dim) for dim in match[2].split("x"))
    chip = CHIPS[match[1]]
    if len(dims) != chip.example.count("x") + 1 or 0 in dims:
        raise ValueError(f"--topology is {topology!r}; expected one such as {chip.example}")
    return chip, dims


def devices(topology: str) -> Sequence[jax.Device]:
    """The devices of a slice, to compile for; nothing runs on them.

    Sets the environment variables of `ENVIRONMENT` where they are not set.

    Raises:
      MissingCompilerError: libtpu is not installed.
      ValueError: there is no such slice.
    """
    chip, dims = find(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise MissingCompilerError(
            "the TPU compiler is not installed; it needs no TPU and comes with "
            '`pip install -e ".[tpu]"` (libtpu, for Linux on x86_64)'
        )
    for name, value in (ENVIRONMENT | {"TPU_ACCELERATOR_TYPE": chip.accelerator}).items():
        os.environ.setdefault(name, value)
    # A host holds 2 x 2 chips, unless the slice is narrower.
    hosts = (*(2 if dim % 2 == 0 else 1 for dim in dims[:2]), 1)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chips_per_host_bounds=hosts, **chip.options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"--topology is {topology!r}, which the compiler refuses ({error}); "
            f"expected one such as {chip.example}"
        ) from error
    return tuple(found)
