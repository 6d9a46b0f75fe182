# SPDX-License-Identifier: Apache-2.0
"""Training step of this project against those of the peers' PyTorch code, on one GPU."""
