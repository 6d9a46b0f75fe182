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
        ("path,up,up_axis\na,y,y\n", r"duplicate columns \['up_axis'\]"),
        ("path,name\na.glb,x\nb.glb\n", "line 3: 1 cells, but the header has 2"),
        ("path,name\n,x\n", "line 2: no path"),
        ("path,up\na.glb,x\n", r"line 2: up_axis is 'x'; expected one of \('y', 'z'\)"),
        ("path,split\na.glb,all\n", "line 2: split is 'all'"),
        ("path,split\na.glb,a b\n", "line 2: split is 'a b'"),
        ("path,split\na.glb,test\nb.glb,\n", "line 3: no split, but other lines have one"),
        (
            "path,split,group\na,test,\nb,train,\nc,test,oak\nd,train,oak\n",
            "line 5: group 'oak' is in split 'train', but .*line 4 has it in 'test'; put all",
        ),
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
    ],
)
def test_an_invalid_json_line_is_an_error(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        tables.read(write(tmp_path, line, "t.jsonl"))


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("t.csv", "path,colour,nmae\na,b,c\n", "colour, nmae (did you mean name?)"),
        ("t.csv", "path,,name\na,b,c\n", None),
        ("t.jsonl", '{"path": "a", "hue": "b"}\n{"path": "b", "hue": "b", "x": 1}', "hue, x"),
        ("t.csv", "path,name\na,b\n", None),
    ],
)
def test_unknown_columns_are_noted_and_not_read(tmp_path, name, text, note):
    path = write(tmp_path, text, name)
    table = tables.read(path)
    assert table.rows[0].path == "a"
    assert table.notes == ((f"{path}: columns that are not read: {note}",) if note else ())


def test_the_table_is_the_only_csv_or_jsonl_file_at_the_top_of_the_folder(tmp_path):
    (tmp_path / "below").mkdir()
    write(tmp_path / "below", "path\na\n")
    assert tables.find(tmp_path) is None
    path = write(tmp_path, "path\na\n", "Any Name.CSV")
    assert tables.find(tmp_path) == path
    write(tmp_path, "path\na\n", "b.jsonl")
    with pytest.raises(ValueError, match=r"found \['Any Name.CSV', 'b.jsonl'\]; expected one"):
        tables.find(tmp_path)


@pytest.mark.parametrize("name", [".~lock.shapes.csv#", "._shapes.csv", "~$shapes.csv", ".x.jsonl"])
def test_hidden_files_and_lock_files_are_no_tables(tmp_path, name):
    write(tmp_path, "path\na\n", name)
    assert tables.find(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "path;captions;label\nsub\\a.glb;one, two|three;chair\n"),
        ("t.csv", 'label,path,captions\nchair,sub\\a.glb,"one, two|three"\n'),
        ("t.tsv", "path\tcaptions\tlabel\nsub\\a.glb\tone, two|three\tchair\n"),
        ("t.csv", "path\tcaptions\tlabel\nsub\\a.glb\tone, two|three\tchair\n"),
        ("t.csv", 'sep=;\r\npath;captions;label\r\nsub\\a.glb;"one, two|three";chair\r\n'),
        ("t.csv", "path;captions;label\rsub\\a.glb;one, two|three;chair\r"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_spreadsheets_write_other_separators_and_encodings(tmp_path, name, text, encoding):
    (row,) = tables.read(write(tmp_path, text.encode(encoding), name)).rows
    assert (row.path, row.captions, row.label) == ("sub\\a.glb", ("one, two", "three"), "chair")


def test_lines_are_counted_below_a_line_that_states_the_separator(tmp_path):
    path = write(tmp_path, "sep=;\npath;name\na.glb;x\nb.glb\n")
    with pytest.raises(ValueError, match="line 4: 1 cells, but the header has 2.*a semicolon in"):
        tables.read(path)


def test_unknown_columns_are_named_once_with_suggestions(tmp_path):
    text = "path,captoin,lable,nme,Colour,split_,,up\n"
    path = write(tmp_path, text + "a.glb,a chair,chair,x,red,train,,y\nb.glb,,,,,,,\n")
    table = tables.read(path)
    assert table.notes == (
        f"{path}: columns that are not read: captoin (did you mean captions?), lable (did you mean "
        "label?), nme (did you mean name?), Colour, split_ (did you mean split?)",
    )
    assert [(row.captions, row.label, row.up_axis) for row in table.rows] == [
        ((), "", "y"),
        ((), "", ""),
    ]


def test_unknown_keys_of_all_lines_are_in_one_note(tmp_path):
    lines = [{"path": "a", "hue": ["x"]}, {"path": "b", "hue": 3, "size": {"x": 1}}]
    path = write(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl")
    assert tables.read(path).notes == (f"{path}: columns that are not read: hue, size",)


def test_many_unknown_columns_are_shortened(tmp_path):
    names = ",".join(f"column {number}" for number in range(50))
    (note,) = tables.read(write(tmp_path, f"path,{names}\na{',' * 50}\n")).notes
    assert note.endswith("column 9 and 40 more")


def test_a_mistyped_path_is_an_error_with_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match="no column 'path'; .*rename 'Paht' if it is the path"):
        tables.read(write(tmp_path, "name,Paht\nx,a.glb\n"))


def test_a_known_table_has_no_notes(tmp_path):
    assert tables.read(write(tmp_path, "path,license\na.glb,CC0\n")).notes == ()
