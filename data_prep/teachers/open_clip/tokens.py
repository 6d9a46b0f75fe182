# SPDX-License-Identifier: Apache-2.0
"""Texts to tokens, as OpenCLIP's tokenizer makes them."""

import functools
import html
import pathlib
import re
import string
from collections.abc import Sequence

import numpy as np
import transformers

from data_prep.teachers import token_counts

# Printable ASCII without an entity of HTML, which ftfy leaves as it is.
_PLAIN = re.compile(r"(?:[\t\r\n -%'-~]|&(?![#\w]))*")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Tokenizer:
    """Tokenizer of a checkpoint.

    Args:
      folder: folder with the tokenizer of the model, see `places.check_tokenizer`.
      length: tokens per text.
      vocabulary: number of tokens of the model.
      clean: cleaning of texts, one of `configs.CLEANINGS`.

    Raises:
      ValueError: the tokenizer belongs to another model.
    """

    def __init__(self, folder: pathlib.Path, *, length: int, vocabulary: int, clean: str):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        # A text that spells the name of a special token is split as any other text.
        self._encode = functools.partial(tokenizer, split_special_tokens=True)
        self._length = length
        self._clean = clean
        found = len(tokenizer)
        end = tokenizer.eos_token_id
        # The features are those of the highest token of a text.
        if found != vocabulary or end != vocabulary - 1:
            raise ValueError(
                f"{folder}: the tokenizer has {found} tokens and ends texts with {end}, but the "
                f"model has {vocabulary} and expects {vocabulary - 1}; copy the tokenizer of this "
                "model into the folder"
            )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns int32 [len(texts), length]; short texts are padded with zeros after the end."""
        cleaned = self._cleaned(texts)
        rows = self._encode(cleaned, truncation=True, max_length=self._length)["input_ids"]
        tokens = np.zeros((len(rows), self._length), np.int32)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
        return tokens

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Returns how many texts have more tokens than a row."""
        return token_counts.count_longer(self._encode, self._cleaned(texts), tokens=self._length)

    def _cleaned(self, texts: Sequence[str]) -> list[str]:
        return [clean(text, self._clean) for text in texts]


def clean(text: str, kind: str) -> str:
    """Repairs characters, resolves entities of HTML, and lowers a text.

    Args:
      text: any text.
      kind: "lower", or "canonicalize" to remove punctuation as well.

    Raises:
      ImportError: the text has other characters than ASCII, and ftfy is not installed.
    """
    if not _PLAIN.fullmatch(text):
        text = html.unescape(html.unescape(_repair(text)))
    if kind == "canonicalize":
        text = text.replace("_", " ").translate(_WITHOUT_PUNCTUATION)
    return " ".join(text.split()).lower()


def _repair(text: str) -> str:
    try:
        import ftfy
    except ImportError as error:
        raise ImportError(
            f"{text!r} has characters that OpenCLIP repairs with ftfy, which is not installed: "
            'pip install "mrd_jax[prep]"'
        ) from error
    return ftfy.fix_text(text)
