# SPDX-License-Identifier: Apache-2.0
"""Study of relation distillation against contrastive alignment: runs, statistics and tables."""
