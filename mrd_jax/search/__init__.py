# SPDX-License-Identifier: Apache-2.0
"""Shape retrieval by text, pictures and shapes; shared by the command line and the search page."""
