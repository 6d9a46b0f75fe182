# SPDX-License-Identifier: Apache-2.0
"""Input pipeline: batch contract, record reader, loader, augmentation, hard negatives."""
