# SPDX-License-Identifier: Apache-2.0
"""Fuzzer: thousands of corrupt and hostile files for every reader."""
