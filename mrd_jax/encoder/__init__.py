# SPDX-License-Identifier: Apache-2.0
"""Saves and loads encoders, and embeds point clouds with them."""

from mrd_jax.encoder.encoder import Cloud, Encoder, load, save

__all__ = ["Cloud", "Encoder", "load", "save"]
