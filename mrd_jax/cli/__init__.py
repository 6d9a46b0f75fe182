# SPDX-License-Identifier: Apache-2.0
"""What the command lines share: the `mrd-jax` command, argument parsing, errors and logs."""
