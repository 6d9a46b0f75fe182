# SPDX-License-Identifier: Apache-2.0
"""Multi-modal relation distillation for 3D encoders, in JAX and Flax."""

__version__ = "1.0.0"
