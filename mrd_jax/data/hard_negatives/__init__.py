# SPDX-License-Identifier: Apache-2.0
"""Hard negatives: mining, the index of nearest records, and batches drawn from it."""
