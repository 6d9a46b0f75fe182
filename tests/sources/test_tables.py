# SPDX-License-Identifier: Apache-2.0
"""Tables of shapes: CSV, JSON Lines, and invalid lines."""

import dataclasses
import json

import pytest

from data_prep.sources import tables


def write(folder, text, name="shapes.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_and_json_lines_give_the_same_rows(tmp_path):
    csv_file = write(
        tmp_path,
        "\ufeffPath, Caption ,IMAGES,label,Up Axis,license\r\n"
        'a b.glb,"one, two | three",x.png|y  z.png,chair,Y,CC0\r\n'
        "\r\n"
        "c.obj,,,,,\r\n",
    )
    entries = [
        {"path": "a b.glb", "captions": ["one, two", "three"], "images": ["x.png", "y  z.png"]}
        | {"label": "chair", "up": "y", "licence": "CC0"},
        {"path": "c.obj", "captions": None, "label": ""},
    ]
    json_file = write(tmp_path, "\n\n".join(map(json.dumps, entries)), "t.jsonl")
    want = [
        tables.Row(
            where=f"{csv_file}, line 2",
            path="a b.glb",
            captions=("one, two", "three"),
            images=("x.png", "y  z.png"),
            label="chair",
            up_axis="y",
            licence="CC0",
        ),
        tables.Row(where=f"{csv_file}, line 4", path="c.obj"),
    ]
    assert list(tables.read(csv_file).rows) == want
    places = [f"{json_file}, line {number}" for number in (1, 3)]
    assert list(tables.read(json_file).rows) == [
        dataclasses.replace(row, where=where) for row, where in zip(want, places, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column 'path'; found"),
        ("path\n", "no shapes in it"),
        ("name\nx\n", "line 1: no column 'path'"),
        ("path,colour\na,b\n", r"line 1: unknown columns \['colour'\]; expected some of \['path'"),
        ("path,up,up_axis\na,y,y\n", r"duplicate columns \['up_axis'\]"),
        ("path,name\na.glb,x\nb.glb\n", "line 3: 1 cells, but the header has 2"),
        ("path,name\n,x\n", "line 2: no path"),
        ("path,up\na.glb,x\n", r"line 2: up_axis is 'x'; expected one of \('y', 'z'\)"),
        ("path,split\na.glb,all\n", "line 2: split is 'all'"),
        ("path,split\na.glb,a b\n", "line 2: split is 'a b'"),
        ("path,split\na.glb,test\nb.glb,\n", "line 3: no split, but other lines have one"),
        (b"path\n\xff.glb\n", "not UTF-8 text"),
        ('path\n"a.glb\n', "not a CSV file"),
    ],
)
def test_an_invalid_csv_file_is_an_error(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        tables.read(write(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
        ("3", "line 1: '3'; expected a JSON object"),
        ('{"path": "a", "label": 3}', "label is 3; expected a string"),
        ('{"path": ["a"]}', r"path is \['a'\]; expected one string"),
        ('{"path": "a", "tags": "b"}', r"unknown columns \['tags'\]"),
    ],
)
def test_an_invalid_json_line_is_an_error(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        tables.read(write(tmp_path, line, "t.jsonl"))


def test_the_table_is_the_only_csv_or_jsonl_file_at_the_top_of_the_folder(tmp_path):
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", "path\na\n")
    assert tables.find(tmp_path) is None
    path = write(tmp_path, "path\na\n", "Any Name.CSV")
    assert tables.find(tmp_path) == path
    write(tmp_path, "path\na\n", "b.jsonl")
    with pytest.raises(ValueError, match=r"found \['Any Name.CSV', 'b.jsonl'\]; expected one"):
        tables.find(tmp_path)
