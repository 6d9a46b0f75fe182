# SPDX-License-Identifier: Apache-2.0
"""Metrics on plain arrays: accuracy, ranking, statistics and logistic regression, in numpy."""
