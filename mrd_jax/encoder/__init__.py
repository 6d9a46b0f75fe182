# SPDX-License-Identifier: Apache-2.0
"""Save and load an encoder, and embed point clouds with it."""

from mrd_jax.encoder.encoder import Cloud, Encoder, load, save

__all__ = ["Cloud", "Encoder", "load", "save"]
