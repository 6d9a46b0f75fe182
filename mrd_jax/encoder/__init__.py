# SPDX-License-Identifier: Apache-2.0
"""Saves and loads encoders, and embeds point clouds with them."""

from mrd_jax.encoder.class_head import ClassHead
from mrd_jax.encoder.encoder import Cloud, Encoder, load, save

__all__ = ["ClassHead", "Cloud", "Encoder", "load", "save"]
