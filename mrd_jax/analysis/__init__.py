# SPDX-License-Identifier: Apache-2.0
"""Ahead-of-time analysis of a training step: memory, schedule, collectives and roofline."""
