# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what they hold, how they are saved, verified, retained and restored."""
