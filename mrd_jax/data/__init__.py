# SPDX-License-Identifier: Apache-2.0
"""From records to the batch that a step sees: contract, reader, loader, augmentation."""
