# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile files for every reader, by the thousand."""
