# SPDX-License-Identifier: Apache-2.0
"""Search page for the browser: `python -m mrd_jax.demo`."""
