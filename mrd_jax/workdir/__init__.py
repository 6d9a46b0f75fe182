# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: whose it is, what is saved in it, what was measured."""
