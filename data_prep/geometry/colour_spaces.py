# SPDX-License-Identifier: Apache-2.0
"""Conversion between sRGB (IEC 61966-2-1) and linear colours."""

import numpy as np

_LEVELS = np.arange(256) / 255
# Linear value of every sRGB level of 8 bits.
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)


def to_linear(levels: np.ndarray) -> np.ndarray:
    """Converts sRGB levels to linear values.

    Args:
      levels: uint8, any shape.

    Returns:
      float32, 0 to 1.
    """
    return _LINEAR[levels]


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Converts linear values to sRGB values.

    Args:
      linear: floats, any shape, clipped to 0..1.

    Returns:
      float32 or float64 as the input, 0 to 1; multiply by 255 and round for levels.
    """
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
