# SPDX-License-Identifier: Apache-2.0
"""Command lines without logic of their own; the only part of mrd_jax that may use data_prep."""
