# SPDX-License-Identifier: Apache-2.0
"""Coloured points and rendered views of meshes and point clouds."""
