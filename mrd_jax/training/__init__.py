# SPDX-License-Identifier: Apache-2.0
"""The training loop, its step, optimizer, metrics and safeguards."""
