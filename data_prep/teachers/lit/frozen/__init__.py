# SPDX-License-Identifier: Apache-2.0
"""The two released models behind the LiT teacher, and how their weights are read."""
