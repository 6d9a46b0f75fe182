# SPDX-License-Identifier: Apache-2.0
"""What a compiler says of a training step: memory, schedule, collectives, beside the floor."""
