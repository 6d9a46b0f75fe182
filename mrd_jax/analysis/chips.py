# SPDX-License-Identifier: Apache-2.0
"""TPU generations and GPUs: published figures of a chip, and abstract devices of a topology."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from mrd_jax.analysis import gpu_targets

# Lets the TPU compiler run without a TPU, and in several processes at once.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

_GIB = 2**30
# Chips of a host: 2 x 2 in a TPU slice of several hosts, and at most eight GPUs of a node.
TPU_CHIPS_PER_HOST, GPUS_PER_HOST = 4, 8


class MissingCompilerError(RuntimeError):
    """Raised if the package with the compiler (libtpu, or a CUDA plugin) is not installed."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one kind of chip: a TPU generation or a GPU.

    Attributes:
      platform: "tpu" or "gpu".
      peak: peak dense bfloat16 FLOP/s.
      bandwidth: memory bandwidth in bytes per second.
      memory: bytes of main memory (HBM). The published "GB" of TPUs are GiB; of the v5e's 16 GiB, a
        program can use 15.75. Of a GPU, the bytes that CUDA reports.
      example: example of a topology, for error messages.
      clock: cycles per second, to which the schedule of the TPU compiler refers; 0 for a GPU, for
        which there is no such schedule. Published for v4 (1,050 MHz), derived for the others from
        the peak and from the number and size of the matrix units (v6e: two units of 256 x 256 with
        two products per cycle).
      accelerator: libtpu's accelerator type of a single-host slice; "" for a GPU.
      options: further options of `get_topology_desc`. On v4, the two cores of a chip form one
        device (megacore), as in training.
    """

    platform: str
    peak: float
    bandwidth: float
    memory: int
    example: str
    clock: float = 0.0
    accelerator: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _gpu(name: str, peak: float, example: str) -> Chip:
    target = gpu_targets.TARGETS[name]
    options = {"target_config": target.describe()}
    return Chip("gpu", peak, target.bandwidth, target.memory, example, options=options)


# TPU: cloud.google.com/tpu/docs/v4, v5e, v5p and v6e. GPU: dense bfloat16 of NVIDIA's data sheets,
# which give twice the figure, with sparsity, for all but the A100; `gpu_targets` has the rest.
CHIPS = {
    "v4": Chip(
        "tpu", 275e12, 1228e9, 32 * _GIB, "v4:4x4x4", 1.05e9, "v4-8",
        {"chip_config_name": "megacore"},
    ),
    "v5e": Chip("tpu", 197e12, 819e9, 16 * _GIB, "v5e:16x16", 1.5e9, "v5litepod-4"),
    "v5p": Chip("tpu", 459e12, 2765e9, 95 * _GIB, "v5p:4x4x4", 1.75e9, "v5p-8"),
    "v6e": Chip("tpu", 918e12, 1640e9, 32 * _GIB, "v6e:8x8", 1.75e9, "v6e-4"),
    "h100": _gpu("h100", 989.5e12, "h100:2x8"),
    "h200": _gpu("h200", 989.5e12, "h200:8"),
    "a100-80": _gpu("a100-80", 312e12, "a100-80:8"),
    "a100-40": _gpu("a100-40", 312e12, "a100-40:8"),
    "l4": _gpu("l4", 121e12, "l4:1"),
    "b200": _gpu("b200", 2250e12, "b200:8"),
}  # fmt: skip


def parse_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """Parses a TPU slice, such as "v5e:16x16", or GPUs: "h100:8", and "h100:2x8" of two nodes.

    Returns:
      The chip, and the number of chips along each axis: two or three of a slice, (nodes, GPUs of
      each) of GPUs.

    Raises:
      ValueError: the name is malformed, the chip is unknown, or a node has more than eight GPUs.
    """
    match = re.fullmatch(r"(\w+(?:-\w+)?):(\d+(?:x\d+)*)", topology)
    if match is None or match[1] not in CHIPS:
        raise ValueError(
            f"--topology is {topology!r}; expected a TPU generation or GPU and the number of chips "
            f"along each axis, such as {', '.join(chip.example for chip in CHIPS.values())}"
        )
    dims = tuple(int(dim) for dim in match[2].split("x"))
    chip = CHIPS[match[1]]
    if chip.platform == "gpu":
        nodes, gpus = (1, *dims)[-2:]
        if len(dims) > 2 or not nodes or not 0 < gpus <= GPUS_PER_HOST:
            raise ValueError(
                f"--topology is {topology!r}; expected at most {GPUS_PER_HOST} GPUs of one node or "
                f"of each of several nodes, such as {match[1]}:8 or {match[1]}:2x8"
            )
        return chip, (nodes, gpus)
    if len(dims) != chip.example.count("x") + 1 or 0 in dims:
        raise ValueError(f"--topology is {topology!r}; expected a slice such as {chip.example}")
    return chip, dims


def parse_slice(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """Parses a TPU slice, as `parse_topology`, where figures of the TPU compiler are needed.

    Raises:
      ValueError: it is no TPU slice.
    """
    chip, dims = parse_topology(topology)
    if chip.platform != "tpu":
        raise ValueError(
            f"--topology is {topology!r}; expected a TPU slice such as v5e:1x1, since the GPU "
            "compiler estimates no times"
        )
    return chip, dims


def count_chips(topology: str) -> int:
    """Returns the number of chips of a slice or a set of nodes, such as "v5e:8x8" or "h100:2x8".

    Other kinds of chips than those in `CHIPS` may be named.

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


def count_hosts(topology: str) -> int:
    """Returns the number of hosts of a topology; of unknown kinds, each has up to eight chips.

    Raises:
      ValueError: the name is malformed.
    """
    if topology.partition(":")[0] not in CHIPS:
        return math.ceil(count_chips(topology) / GPUS_PER_HOST)
    chip, dims = parse_topology(topology)
    return dims[0] if chip.platform == "gpu" else math.ceil(math.prod(dims) / TPU_CHIPS_PER_HOST)


def make_devices(topology: str) -> Sequence[jax.Device]:
    """Returns abstract devices of a topology: programs can be compiled for them, but not run.

    For a TPU, sets the variables in `ENVIRONMENT`, except those that are set already, and the
    accelerator type of the slice.

    Raises:
      MissingCompilerError: the compiler is not installed.
      ValueError: the topology does not exist.
    """
    chip, dims = parse_topology(topology)
    make = _make_gpus if chip.platform == "gpu" else _make_slice
    try:
        return tuple(make(topology, chip, dims).devices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"--topology is {topology!r}, which the compiler rejects ({error}); "
            f"expected one such as {chip.example}"
        ) from error


def _make_slice(topology: str, chip: Chip, dims: tuple[int, ...]) -> topologies.TopologyDescription:
    if importlib.util.find_spec("libtpu") is None:
        raise MissingCompilerError(
            "the TPU compiler (libtpu) is not installed; it does not need a TPU: "
            '`pip install "mrd_jax[tpu]"` (Linux on x86_64)'
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Always, since `mrd_jax.cli.logs` may have set the type of another generation.
    os.environ["TPU_ACCELERATOR_TYPE"] = chip.accelerator
    # A host has 2 x 2 chips, unless the slice is narrower.
    hosts = (*(2 if dim % 2 == 0 else 1 for dim in dims[:2]), 1)
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology, chips_per_host_bounds=hosts, **chip.options
    )


def _make_gpus(_: str, chip: Chip, dims: tuple[int, ...]) -> topologies.TopologyDescription:
    if gpu_targets.find_plugin() is None:
        raise MissingCompilerError(
            "the GPU compiler (a CUDA plugin of JAX) is not installed; it does not need a GPU: "
            '`pip install "mrd_jax[cuda12]"` (Linux)'
        )
    # The plugins are registered with the first backend.
    jax.devices()
    nodes, gpus = dims
    return topologies.get_topology_desc(
        platform="cuda", topology=f"1x{nodes}x{gpus}", **chip.options
    )
