# SPDX-License-Identifier: Apache-2.0
"""A page to search one's own shapes with, in a browser: `python -m mrd_jax.demo`."""
