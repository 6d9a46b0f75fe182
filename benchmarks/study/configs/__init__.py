# SPDX-License-Identifier: Apache-2.0
"""Configs that the study starts from, independent of the defaults that follow from it."""
