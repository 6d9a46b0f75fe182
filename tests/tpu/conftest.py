# SPDX-License-Identifier: Apache-2.0
"""The cloud of a test."""

import pytest
import stub_training


@pytest.fixture
def cloud(tmp_path):
    """A cloud of two hosts, without a slice."""
    return stub_training.Cloud(tmp_path / "cloud")
