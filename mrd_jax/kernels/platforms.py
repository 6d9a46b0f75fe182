# SPDX-License-Identifier: Apache-2.0
"""Names of platforms; which formulation runs on which is stated where `kernels` are chosen.

The choice is made by `jax.lax.platform_dependent`, from the platform that a program is lowered for
and not from the devices of this machine, so that a CPU compiles the program of a TPU or GPU:
`attention.choices`, `mrd_jax.models.grouping`, and for TPUs `bit_words` and `chunked_pooling`.
"""

import functools
import importlib.util

import jax

# Packages with which JAX compiles for CUDA; they bring cuDNN.
CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


# Least compute capability of a GPU for which Triton and cuDNN's attention exist (Ampere).
COMPUTE_CAPABILITY = (8, 0)


@functools.cache
def compiles_cuda() -> bool:
    """Returns whether JAX can compile for CUDA here; a GPU is not needed.

    Where it cannot, the formulations for CUDA are not traced, which would take time.
    """
    return any(importlib.util.find_spec(name) for name in CUDA_PLUGINS)


def of_device(device: jax.Device) -> str:
    """Returns the platform of a device as `jax.lax.platform_dependent` names it.

    Returns:
      "cpu", "tpu", "cuda" or "rocm"; JAX's devices name the last two "gpu".

    Raises:
      ValueError: the device is an NVIDIA GPU that the kernels do not support.
    """
    if device.platform != "gpu":
        return device.platform
    if "rocm" in device.client.platform_version:
        return "rocm"
    capability = str(device.compute_capability)
    if tuple(map(int, capability.split("."))) < COMPUTE_CAPABILITY:
        needed = ".".join(map(str, COMPUTE_CAPABILITY))
        raise ValueError(
            f"{device.device_kind} has compute capability {capability}; expected {needed} or more "
            "(A100, L4 and later)"
        )
    return "cuda"
