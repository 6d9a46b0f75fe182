# SPDX-License-Identifier: Apache-2.0
"""Electronic parts of KiCad's library of 3D models."""
