# SPDX-License-Identifier: Apache-2.0
"""Searching shapes by words, pictures and shapes: what the command line and the page share."""
