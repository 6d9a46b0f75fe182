# SPDX-License-Identifier: Apache-2.0
"""Caption files: formats, ids, what is left out, and positions that find the rows again."""

import json

import pytest

from data_prep import captions
from data_prep.captions import rows
from data_prep.captions.ids import Level, ShapeIds

# As in Cap3D_automated_Objaverse_full.csv: no header, quotes where a caption has commas.
UIDS = ("ed51a51909ee46c780db3a85e821feb2", "9110b606f6c547b2980fcb3c8c4b6a1c")
CAP3D = (
    f"{UIDS[0]},A green and white rifle.\n"
    f'{UIDS[1]},"a small building with a roof, accompanied by ""trees""."\n'
    "80d9caaa1fa04502af666135196456e1,a pair of swords\n"
).encode()


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def join(path, ids, *, kind="cap3d"):
    return captions.join([captions.parse(f"{path}:{kind}")], ids)


def test_the_layout_of_cap3d_is_joined_by_uid(tmp_path):
    joined = join(write(tmp_path / "cap3d.csv", CAP3D), [*UIDS, "0" * 32])

    assert joined.of(UIDS[0]) == (("cap3d", "A green and white rifle."),)
    assert joined.of(UIDS[1]) == (
        ("cap3d", 'a small building with a roof, accompanied by "trees".'),
    )
    assert joined.of("0" * 32) == ()
    assert joined.notes == (
        "cap3d.csv (cap3d): 3 rows, 2 of them match 2 of 3 shapes; 1 ids match no shape "
        "(80d9caaa1fa04502af666135196456e1)",
    )


@pytest.mark.parametrize(
    "name, content",
    [
        ("plain.csv", "a,one two\nb,three\n"),
        ("crlf_and_mark.csv", b"\xef\xbb\xbfa,one two\r\nb,three\r\n"),
        ("mark_and_header.csv", b"\xef\xbb\xbfuid,source,caption\na,x,one two\nb,y,three"),
        ("header.csv", "Caption,ID\none two,a\nthree,b\n"),
        ("quoted.csv", '"a","one\r\n  two"\r\n\r\nb,three\r\n'),
        ("tabs.tsv", "a\tone  two\nb\tthree\n"),
        ("lines.jsonl", '{"uid": "a", "caption": "one two"}\n\n{"uid": "b", "text": ["three"]}'),
        ("mark.jsonl", b'\xef\xbb\xbf{"id": "a", "captions": ["one\\ntwo", ""]}\r\n'
                       b'{"id": "b", "captions": ["three"]}'),
    ],
)  # fmt: skip
def test_formats_give_the_same_captions(tmp_path, name, content):
    joined = join(write(tmp_path / name, content), ["b", "a"], kind="caption")
    assert joined.of("a") == (("caption", "one two"),)
    assert joined.of("b") == (("caption", "three"),)


def test_every_row_is_found_again_by_its_position(tmp_path):
    texts = [f'caption {n}, "of"\r\n{"é" * (n % 5)}' for n in range(50)]
    lines = ['"{}","{}"'.format(n, text.replace('"', '""')) for n, text in enumerate(texts)]
    path = write(tmp_path / "c.csv", "\ufeff" + "\n".join(lines))
    reader = rows.Reader(path)
    found = list(reader.rows())
    assert [row.texts for row in found] == [(" ".join(text.split()),) for text in texts]
    assert [row.line for row in found[:3]] == [1, 3, 5]
    again = reader.read((row.start, row.stop) for row in reversed(found))
    for row, old in zip(again, reversed(found), strict=True):
        assert (row.id, row.texts) == (old.id, old.texts)


def test_several_captions_of_an_id_stay_in_order_and_repeated_ones_are_counted(tmp_path):
    path = write(tmp_path / "c.csv", "a,second is first\nb,x\na,later\na,second is first\n")
    joined = join(path, ["a", "b"])
    assert [text for _, text in joined.of("a")] == ["second is first", "later"]
    assert "  left out, same id and caption: 1" in joined.notes


def test_captions_of_several_files_keep_the_order_of_the_files(tmp_path):
    files = [
        captions.parse(f"{write(tmp_path / '1.csv', 'a,one')}:cap3d"),
        captions.parse(f"{write(tmp_path / '2.csv', 'a,one')}:caption"),
        captions.parse(f"{write(tmp_path / '3.csv', 'a,zero')}:cap3d"),
    ]
    joined = captions.join(files, ["a"])
    assert joined.of("a") == (("cap3d", "one"), ("caption", "one"), ("cap3d", "zero"))


def test_rows_without_a_usable_caption_are_left_out_and_counted(tmp_path):
    content = b'a,good\nb,\xff\xfe\nb,"  "\n,lost\n\xe9,x\nb,last\n'
    joined = join(write(tmp_path / "c.csv", content), ["a", "b"])
    assert joined.of("b") == (("cap3d", "last"),)
    assert joined.notes[0].startswith("c.csv (cap3d): 6 rows, 2 of them match 2 of 2 shapes; 0 ids")
    assert joined.notes[1:] == (
        "  left out, empty: 1 rows, the first in line 3",
        "  left out, without an id: 1 rows, the first in line 4",
        "  left out, not UTF-8: 2 rows, the first in line 2",
    )


@pytest.mark.parametrize(
    "shape_id, found_id, level",
    [
        ("uid", "uid", Level.EXACT),
        ("uid", "uid.glb", Level.LOOSE),
        ("uid", "000-023/uid.glb", Level.LOOSE),
        ("uid", "glbs\\000-023\\uid.GLB", Level.LOOSE),
        ("chairs/oak.glb", "oak", Level.LOOSE),
        ("chairs/oak.glb", "./chairs//oak", Level.LOOSE),
        ("chairs/oak.glb", "oak.obj", Level.LOOSE),
        ("oak.v2.glb", "oak.v2", Level.LOOSE),
        ("uid", "uid2", Level.NONE),
        ("chairs/oak.glb", "tables/oak.glb", Level.NONE),  # both have folders, which differ
        ("oak.v2", "oak", Level.NONE),
        ("uid", "UID", Level.NONE),
    ],
)
def test_ids_match_with_and_without_suffix_and_folder(shape_id, found_id, level):
    position = None if level is Level.NONE else 1
    assert ShapeIds(["other", shape_id]).find(found_id) == (position, level)


def test_an_id_that_may_mean_several_shapes_matches_none(tmp_path):
    ids = ["a/model.obj", "b/model.obj", "oak.glb", "oak.obj", "c/pine.ply"]
    content = "model,x\noak,x\noak.obj,exact\npine,loose\nc/pine,other id\na/model.obj,own\n"
    joined = join(write(tmp_path / "c.csv", content), ids)
    assert [[text for _, text in joined.of(shape_id)] for shape_id in ids] == [
        ["own"], [], [], ["exact"], []
    ]  # fmt: skip
    assert "  left out, ambiguous id: 4 rows" in joined.notes


def test_an_exact_id_takes_precedence_over_a_looser_one_in_any_order(tmp_path):
    for content in ("uid.glb,loose\nuid,exact\n", "uid,exact\nuid.glb,loose\n"):
        joined = join(write(tmp_path / "c.csv", content), ["uid"])
        assert joined.of("uid") == (("cap3d", "exact"),)


def test_a_file_for_other_shapes_is_an_error_with_both_kinds_of_ids(tmp_path):
    path = write(tmp_path / "c.csv", CAP3D)
    with pytest.raises(ValueError, match="none of its 3 rows .* ed51a.* of the source .* bed2"):
        join(path, ["bed2", "oakChair"])
    with pytest.raises(ValueError, match="none of its 0 rows"):
        join(write(path, ""), ["bed2"])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("c.csv", "a,b,c\n", "line 1: 3 cells, expected an id and a caption, or a header with"),
        ("c.csv", "a,b\nc,d\ne,f,g\n", "line 3: 3 cells, expected 2; put captions"),
        ("c.csv", 'a,b\nc,"d\ne\n', "line 2: .*unexpected end of data"),
        ("c.csv", b"\xff\xfea\0,\0b\0", "UTF-16 text; save it as UTF-8"),
        ("c.jsonl", '{"id": "a", "caption": "x"}\n{"id": ', "line 2: not a JSON object"),
        ("c.jsonl", '["a", "b"]', "line 1: .* expected an object with an id"),
        ("c.jsonl", '{"id": 3, "caption": "x"}', "line 1: .* expected an object with an id"),
        ("c.jsonl", '{"id": "a", "caption": 3}', "line 1: caption is 3; expected a string"),
        ("c.jsonl", '{"a": ' * 100_000, "line 1: not a JSON object"),
    ],
)
def test_the_error_for_a_malformed_row_names_its_line(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=f"(?s){path}.*{message}"):
        join(path, ["a"])


@pytest.mark.parametrize(
    "value, message",
    [
        ("c.csv", "expected FILE:KIND, with one of the kinds name, tags"),
        ("c.csv:poem", "expected FILE:KIND"),
        ("c.csv:name_rejected", "expected FILE:KIND"),
        ("none.csv:cap3d", "none.csv is not a file"),
        ("c.csv:gpt4_filter", "expected OpenShape's gpt4_filtering.json"),
        ("c.csv.gz:cap3d", "captions are read from .csv, .tsv, .jsonl files; unpack or rename"),
    ],
)
def test_the_error_for_a_wrong_value_says_what_is_expected(tmp_path, monkeypatch, value, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "c.csv", CAP3D)
    write(tmp_path / "c.csv.gz", b"x")
    with pytest.raises(ValueError, match=message):
        captions.parse(value)


def test_a_file_that_changes_during_the_build_is_an_error(tmp_path):
    path = write(tmp_path / "c.csv", CAP3D)
    joined = join(path, UIDS)
    write(path, CAP3D + b"more,text\n")
    with pytest.raises(ValueError, match="c.csv: changed while it was in use; run again"):
        joined.of(UIDS[0])


def test_the_filter_rejects_the_names_with_flag_n(tmp_path):
    flags = {UIDS[0]: {"flag": "N"}, f"{UIDS[1]}.glb": {"flag": "Y"}, "other": {"flag": "N"}}
    path = write(tmp_path / "gpt4_filtering.json", json.dumps(flags))
    joined = join(path, [*UIDS, "c"], kind=captions.FILTER)
    assert [joined.rejects_name(shape_id) for shape_id in (*UIDS, "c")] == [True, False, False]
    assert joined.of(UIDS[0]) == ()
    assert joined.notes == (
        "gpt4_filtering.json (gpt4_filter): 3 names, 2 of them match 2 of 3 shapes and reject 1; "
        "1 ids match no shape (other)",
    )


def test_a_changed_file_changes_its_content_but_another_folder_does_not(tmp_path):
    file = captions.parse(f"{write(tmp_path / 'c.csv', CAP3D)}:cap3d")
    before = file.content()
    (tmp_path / "d").mkdir()
    copy = write(tmp_path / "d" / "c.csv", CAP3D)
    assert captions.parse(f"{copy}:cap3d").content() == before
    assert captions.parse(f"{copy}:caption").content() != before
    write(copy, CAP3D.replace(b"green", b"greem"))
    assert captions.parse(f"{copy}:cap3d").content() != before
