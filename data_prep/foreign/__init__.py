# SPDX-License-Identifier: Apache-2.0
"""Reading files from strangers: within limits, without running what is in them."""
