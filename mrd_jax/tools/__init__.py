# SPDX-License-Identifier: Apache-2.0
"""Command lines; besides `mrd_jax.search` and `mrd_jax.demo`, only they import data_prep."""
