# SPDX-License-Identifier: Apache-2.0
"""Frozen released models of the LiT teacher, and readers of their weights."""
