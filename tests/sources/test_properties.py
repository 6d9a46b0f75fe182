# SPDX-License-Identifier: Apache-2.0
"""Parsing of Java properties files."""

import pytest

from data_prep.sources import properties


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a=b", {"a": "b"}),
        ("name#1 = Arm chair ", {"name#1": "Arm chair "}),
        ("a:b\nc d", {"a": "b", "c": "d"}),
        ("a=b=c", {"a": "b=c"}),
        ("a\\=b=c", {"a=b": "c"}),
        ("a\\\\=b", {"a\\": "b"}),
        ("# a=b\n! c=d\n\n  # e\n", {}),
        ("alone", {"alone": ""}),
        ("empty=", {"empty": ""}),
        ("a=1\na=2", {"a": "2"}),
        ("a=1\r\nb=2\rc=3", {"a": "1", "b": "2", "c": "3"}),
        ("a=x\\ty\\nz\\q", {"a": "x\ty\nzq"}),
        ("a=Caf\\u00e9 \\u65e5", {"a": "Café 日"}),
        ("a=one \\\n     two\\\n  # three", {"a": "one two# three"}),
        ("a=back slash\\\\\nb=1", {"a": "back slash\\", "b": "1"}),
        ("a=last\\", {"a": "last"}),
    ],
)
def test_files_are_parsed_as_by_java(text, want):
    assert properties.parse(text.encode("ascii")) == want


def test_bytes_are_decoded_as_latin_1():
    assert properties.parse(b"a=caf\xe9 \xa9") == {"a": "café ©"}
