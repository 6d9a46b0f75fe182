# SPDX-License-Identifier: Apache-2.0
"""Commands that obtain the figures of README and docs; each prints one JSON line."""
