# SPDX-License-Identifier: Apache-2.0
"""Fuzzer: thousands of corrupt and malicious files for every reader."""
