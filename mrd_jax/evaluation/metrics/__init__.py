# SPDX-License-Identifier: Apache-2.0
"""Measures and fits on plain arrays, numpy only: accuracy, ranking, intervals, regression."""
