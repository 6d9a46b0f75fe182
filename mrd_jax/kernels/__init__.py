# SPDX-License-Identifier: Apache-2.0
"""Accelerator kernels that the models call: attention, bit words, chunked pooling."""
