# SPDX-License-Identifier: Apache-2.0
"""Numbers in text files, with the comments and decimal commas that some programs write."""

import re
import warnings

import numpy as np

from data_prep.geometry.scene import MeshError

# Not-a-number and infinity as old runtimes of Windows print them, such as "-1.#IND00".
_WINDOWS_NAN = re.compile(rb"[-+]?1\.#(?:IND|QNAN|SNAN|INF|J)\w*")
_COMMENT = re.compile(rb"#[^\r\n]*")
# A comma within a number, and one that separates numbers.
_DECIMAL_COMMA = re.compile(rb"\d,\d")
_SEPARATING_COMMA = re.compile(rb",[ \t\r\n]|\.\d*,|,\d+,")


def to_utf8(data: bytes) -> bytes:
    """Converts text in UTF-16, which begins with a byte order mark, and removes such a mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" in data[2:4]:
        data = data.decode("utf-16", "replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def clean(text: bytes) -> bytes:
    """Removes comments, which begin with "#", and replaces commas and Windows' NaN.

    A comma is a decimal point if the text has no other points and no comma separates numbers.

    Args:
      text: numbers, separated by white space or commas.
    """
    if b".#" in text:
        text = _WINDOWS_NAN.sub(b"nan", text)
    if b"#" in text:
        text = _COMMENT.sub(b"", text)
    if b"," in text:
        is_decimal = _DECIMAL_COMMA.search(text) and not _SEPARATING_COMMA.search(text)
        text = text.replace(b",", b"." if is_decimal else b" ")
    return text


def parse(text: bytes) -> np.ndarray:
    """Parses numbers separated by white space.

    Args:
      text: result of `clean`.

    Returns:
      float64 [numbers].

    Raises:
      MeshError: a word is not a number; the message ends with the word.
    """
    if not text.strip():
        return np.zeros(0)  # numpy returns -1 for blanks
    try:
        with warnings.catch_warnings():
            # Some versions of numpy warn about what is not a number, others raise ValueError.
            warnings.simplefilter("error", DeprecationWarning)
            return np.fromstring(text, sep=" ")
    except (ValueError, DeprecationWarning) as error:
        raise MeshError(f"expected a number, found {_first_word(text)!r}") from error


def _first_word(text: bytes) -> str:
    """Returns the first word that is not a number, shortened."""
    for word in text.split():
        try:
            float(word)
        except ValueError:
            return word[:20].decode("ascii", "replace")
    return ""
