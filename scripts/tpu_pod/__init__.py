# SPDX-License-Identifier: Apache-2.0
"""Launcher for Cloud TPU slices; needs only Python, git and gcloud."""
