# SPDX-License-Identifier: Apache-2.0
"""NVIDIA GPUs as XLA's compiler needs them described, and the memory that JAX takes of them.

XLA compiles for a GPU that is not there from a `GpuTargetConfigProto`. Sources of the figures:

- h100, h200, a100-80, a100-40, b200: what XLA's own descriptions of these devices say
  (`xla/backends/gpu/target_config/specs/` in github.com/openxla/xla), as CUDA reports them on the
  SXM variants. Exception: the memory of the h200, which CUDA reports as 143,156 MiB.
- l4: NVIDIA's Ada whitepaper and data sheet of the L4 (58 multiprocessors, 48 MiB of L2, 2.04 GHz,
  300 GB/s); memory as CUDA reports it with ECC, 22.03 GiB.
- Limits of a multiprocessor: "Technical Specifications per Compute Capability" in NVIDIA's CUDA C++
  Programming Guide, for compute capabilities 8.0, 8.9, 9.0 and 10.0.
"""

import dataclasses
import importlib.util
import os
from importlib import metadata

from mrd_jax.kernels import platforms

# Share of the memory that JAX 0.10 allocates at start, and the two names of its variable; see
# docs.jax.dev, "GPU memory allocation".
MEMORY_FRACTION = 0.75
_FRACTION_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
# Without a device, candidates cannot be timed: cuBLAS takes all matrix products.
COMPILER_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
# Oldest cuDNN and CUDA that the pinned JAX accepts as a target: those of its plugins.
_CUDNN, _CUDA = (9, 8, 0), (12, 9, 0)


@dataclasses.dataclass(frozen=True)
class Target:
    """What the compiler is told about a GPU.

    Attributes:
      name: name as CUDA reports it.
      capability: compute capability, (major, minor).
      cores: number of multiprocessors.
      units: float32 units of a multiprocessor.
      threads: most threads of a multiprocessor.
      shared_memory: bytes of shared memory of a multiprocessor.
      l2: bytes of the L2 cache.
      clock: boost clock in GHz.
      memory: bytes of memory as CUDA reports them; less than the nominal size.
      bandwidth: bytes per second to and from memory.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    units: int
    threads: int
    shared_memory: int
    l2: int
    clock: float
    memory: int
    bandwidth: int

    def describe(self) -> str:
        """Returns the `GpuTargetConfigProto` of the GPU as text."""
        major, minor = self.capability
        device = {
            "threads_per_block_limit": 1024, "threads_per_warp": 32,
            "threads_per_core_limit": self.threads,
            "shared_memory_per_block": 48 * 1024, "shared_memory_per_core": self.shared_memory,
            # 1 KiB per block is reserved for the system.
            "shared_memory_per_block_optin": self.shared_memory - 1024,
            "registers_per_core_limit": 65536, "registers_per_block_limit": 65536,
            "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
            "core_count": self.cores, "fpus_per_core": self.units, "clock_rate_ghz": self.clock,
            "memory_bandwidth": self.bandwidth, "l2_cache_size": self.l2,
            "device_memory_size": self.memory,
        }  # fmt: skip
        fields = "\n".join(f"  {name}: {value}" for name, value in device.items())
        return (
            f"gpu_device_info {{\n{fields}\n"
            f"  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
            f'platform_name: "CUDA"\ndevice_description_str: "{self.name}"\n'
            f"dnn_version_info {{ {_format_version(_CUDNN)} }}\n"
            f"runtime_version {{ {_format_version(_CUDA)} }}\n"
        )


_KIB, _MIB = 2**10, 2**20
TARGETS = {
    "h100": Target(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 2048, 228 * _KIB, 50 * _MIB, 1.98,
        84_942_979_072, 3_352_320_000_000,
    ),
    "h200": Target(
        "NVIDIA H200", (9, 0), 132, 128, 2048, 228 * _KIB, 50 * _MIB, 1.98,
        143_156 * _MIB, 4_800_000_000_000,
    ),
    "a100-80": Target(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2048, 164 * _KIB, 40 * _MIB, 1.41,
        85_100_068_864, 2_039_040_000_000,
    ),
    "a100-40": Target(
        "NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 2048, 164 * _KIB, 40 * _MIB, 1.41,
        42_331_013_120, 1_555_200_000_000,
    ),
    "l4": Target(
        "NVIDIA L4", (8, 9), 58, 128, 1536, 100 * _KIB, 48 * _MIB, 2.04,
        22_559 * _MIB, 300_000_000_000,
    ),
    "b200": Target(
        "NVIDIA B200", (10, 0), 148, 128, 2048, 228 * _KIB, 132_644_864, 1.965,
        191_514_411_008, 7_672_320_000_000,
    ),
}  # fmt: skip


def find_plugin() -> str | None:
    """Returns name and version of the installed CUDA plugin of JAX; None if there is none."""
    for module in platforms.CUDA_PLUGINS:
        if importlib.util.find_spec(module):
            name = module.replace("_", "-")
            return f"{name} {metadata.version(name)}"
    return None


def memory_fraction() -> float:
    """Returns the share of a GPU's memory that JAX will allocate, from its environment variables.

    Raises:
      ValueError: the variable is not a number between 0 and 1.
    """
    for name in _FRACTION_VARIABLES:
        value = os.environ.get(name)
        if value:
            try:
                fraction = float(value)
            except ValueError:
                fraction = 0.0
            if not 0 < fraction <= 1:
                raise ValueError(f"{name} is {value!r}; expected a share of the memory, such as .9")
            return fraction
    return MEMORY_FRACTION


def _format_version(version: tuple[int, int, int]) -> str:
    return " ".join(
        f"{name}: {value}" for name, value in zip(("major", "minor", "patch"), version, strict=True)
    )
