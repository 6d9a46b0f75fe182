# SPDX-License-Identifier: Apache-2.0
"""Counts the texts that a tokenizer truncates."""

from collections.abc import Callable, Sequence

# Texts per call, which bounds the memory of their tokens.
_BATCH = 4_096


def count_longer(tokenizer: Callable, texts: Sequence[str], *, tokens: int) -> int:
    """Returns how many texts have more than `tokens` tokens, with those for start and end.

    Args:
      tokenizer: tokenizer of transformers.
      texts: names or sentences.
      tokens: number of tokens that the model reads.
    """
    longer = 0
    for start in range(0, len(texts), _BATCH):
        # One token more than the model reads tells a text that is too long.
        encoded = tokenizer(
            list(texts[start : start + _BATCH]), truncation=True, max_length=tokens + 1
        )
        longer += sum(len(ids) > tokens for ids in encoded["input_ids"])
    return longer
