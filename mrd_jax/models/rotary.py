# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding of image patches, as in EVA-02 (Fang et al. 2023)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

_BASE = 10_000.0


@dataclasses.dataclass(frozen=True)
class PatchGrid:
    """Positions of a class token, which is not rotated, and of a square of patches in row order.

    Attributes:
      side: patches per row and per column.
      trained_side: side of the grid that the frequencies were chosen for; positions are scaled to
        it, so that the embedding covers the same range at every resolution.
    """

    side: int
    trained_side: int

    def angles(self, head_dim: int) -> np.ndarray:
        """Returns float32 [1 + side ** 2, head_dim / 2], one angle per pair of channels.

        The first half of the pairs encodes the row of a patch, the second half its column.
        """
        bands = head_dim // 4
        frequencies = _BASE ** -(np.arange(bands) / bands)
        positions = np.arange(self.side) * (self.trained_side / self.side)
        rows, columns = np.meshgrid(positions, positions, indexing="ij")
        grid = np.stack([rows, columns], axis=-1).reshape(-1, 2, 1) * frequencies
        angles = grid.reshape(self.side**2, 2 * bands)
        return np.concatenate([np.zeros((1, 2 * bands)), angles]).astype(np.float32)

    def rotate(self, x: jax.Array) -> jax.Array:
        """Rotates pairs of neighbouring channels by the angles of their token.

        Args:
          x: [batch, tokens, heads, head_dim], the first `tokens` tokens of every sample.

        Returns:
          The same shape and dtype; the rotation is computed in float32.
        """
        angles = self.angles(x.shape[-1])[: x.shape[1], None]
        cosine, sine = np.cos(angles), np.sin(angles)
        pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
        rotated = [first * cosine - second * sine, second * cosine + first * sine]
        return jnp.stack(rotated, axis=-1).reshape(x.shape).astype(x.dtype)
