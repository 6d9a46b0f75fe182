# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning of an encoder on the classes of a data set."""
