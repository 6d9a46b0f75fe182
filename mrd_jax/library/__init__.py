# SPDX-License-Identifier: Apache-2.0
"""Work on a library of shapes: labels, duplicates, clusters and coverage of a list of classes."""
