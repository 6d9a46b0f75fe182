# SPDX-License-Identifier: Apache-2.0
"""Configs, one file per experiment: `get_config()` returns everything that a run depends on."""
