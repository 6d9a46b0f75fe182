# SPDX-License-Identifier: Apache-2.0
"""From the file of a mesh or a cloud to coloured points and to views."""
