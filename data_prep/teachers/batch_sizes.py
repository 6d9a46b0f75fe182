# SPDX-License-Identifier: Apache-2.0
"""Rows per call of a model, chosen by the memory of the devices."""

from collections.abc import Callable

import jax

# Pictures of a shard of 32 shapes with 12 views and a picture of their own. Calls do not span
# shards, so larger ones would be padding.
LARGEST = 416
# Rows per call on CPUs, which larger calls do not make faster.
CPU = 32
# Fraction of the free memory that a call may take.
USABLE = 0.8


def candidates(devices: int) -> list[int]:
    """Returns sizes from large to small: LARGEST divided into 1, 2, 4, ... equal calls.

    Args:
      devices: number of devices; sizes are multiples of it.
    """
    sizes, calls = [], 1
    while not sizes or sizes[-1] > devices:
        rows = -(-LARGEST // calls)
        sizes.append(-(-rows // devices) * devices)
        calls *= 2
    return sizes


def choose(needed: Callable[[int], int], *, devices: int, free: int) -> int:
    """Returns the largest size whose calls fit into the memory of every device.

    Args:
      needed: function from a number of rows to the bytes that a call needs on one device; it may
        raise the device's error of exhausted memory.
      devices: number of devices.
      free: free bytes of each device.

    Raises:
      ValueError: even the smallest call does not fit.
    """
    size = memory = 0
    for size in candidates(devices):
        try:
            memory = needed(size)
        except jax.errors.JaxRuntimeError as error:
            if not is_exhausted(error):
                raise
            continue
        if memory <= USABLE * free:
            return size
    raise ValueError(
        f"{size} pictures or texts per call over {devices} devices need {memory:,} bytes on each, "
        f"of which {USABLE * free:,.0f} may be used; use a smaller teacher or devices with more "
        "memory"
    )


def is_exhausted(error: jax.errors.JaxRuntimeError) -> bool:
    """Returns whether an error of the runtime means that the memory of a device is exhausted."""
    return "RESOURCE_EXHAUSTED" in str(error)


def free_memory() -> int | None:
    """Returns the free bytes of the local device that has least; None if they are unknown."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if not all(stats):
        return None
    return min(each["bytes_limit"] - each["bytes_in_use"] for each in stats)
