# SPDX-License-Identifier: Apache-2.0
"""Names of platforms; which formulation runs on which is stated where `kernels` are chosen.

The choice is made by `jax.lax.platform_dependent`, from the platform that a program is lowered for
and not from the devices of this machine, so that a CPU compiles the program of a TPU or GPU:
`attention.choices`, `bit_words`, `chunked_pooling` and `mrd_jax.models.grouping`.
"""

import jax


def of_device(device: jax.Device) -> str:
    """Returns the platform of a device as `jax.lax.platform_dependent` names it.

    Returns:
      "cpu", "tpu", "cuda" or "rocm"; JAX's devices name the last two "gpu".
    """
    if device.platform != "gpu":
        return device.platform
    return "rocm" if "rocm" in device.client.platform_version else "cuda"
