# SPDX-License-Identifier: Apache-2.0
"""Measures of a trained model on shapes it has not seen: accuracy, retrieval, baselines, tests."""

from mrd_jax.evaluation.held_out_split import HeldOut, load_held_out

__all__ = ["HeldOut", "load_held_out"]
