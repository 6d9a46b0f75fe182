# SPDX-License-Identifier: Apache-2.0
"""One file per experiment: `get_config()` returns everything a run depends on."""
