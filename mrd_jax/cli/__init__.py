# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the command lines: the `mrd-jax` command, argument parsing, errors and logs."""
