# SPDX-License-Identifier: Apache-2.0
"""Readers of untrusted files: within limits, and without running code in the files."""
