# SPDX-License-Identifier: Apache-2.0
"""Devices and processes: SPMD backends, FSDP, multi-process runs, the compilation cache."""
