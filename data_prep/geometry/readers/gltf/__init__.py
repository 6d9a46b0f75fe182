# SPDX-License-Identifier: Apache-2.0
"""Reader of glTF 2.0 files, binary (.glb) and text (.gltf)."""
