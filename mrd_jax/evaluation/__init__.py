# SPDX-License-Identifier: Apache-2.0
"""Evaluation on held-out shapes: zero-shot accuracy, retrieval, probes, baselines, benchmarks."""

from mrd_jax.evaluation.held_out_split import HeldOut, load_held_out

__all__ = ["HeldOut", "load_held_out"]
