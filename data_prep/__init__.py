# SPDX-License-Identifier: Apache-2.0
"""Offline preparation: raw 3D data and frozen teachers in, TFDS records out."""
