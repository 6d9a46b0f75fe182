# SPDX-License-Identifier: Apache-2.0
"""The index on disk and searches in it."""

import dataclasses
import io
import sys

import numpy as np
import PIL.Image
import pytest
import tiny_index
from tiny_encoder import random_clouds

from mrd_jax.data import picture_files
from mrd_jax.search import nearest, pictures, queries, shape_index

try:
    import faiss  # noqa: F401 - whether it is installed
except ModuleNotFoundError:
    faiss = None


def slow_nearest(rows, query, count):
    """Returns the rows with the highest cosine similarities, computed one by one and sorted."""
    cosines = [float(np.float64(row) @ np.float64(query)) for row in rows]
    order = sorted(range(len(rows)), key=lambda number: (-cosines[number], number))[:count]
    return order, [cosines[number] for number in order]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_index.write(tmp_path_factory.mktemp("search") / "index")


@pytest.fixture
def searcher(folder):
    return queries.Searcher(shape_index.read(folder), teacher=tiny_index.FakeTeacher())


@pytest.mark.parametrize("keep", [0, nearest.KEEP], ids=["converted per query", "kept"])
def test_exact_search_equals_a_loop_over_all_rows(keep, monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 7)  # the last block is smaller
    rows = tiny_index.unit_rows(50).astype(np.float16)
    search = nearest.ExactSearch(rows, keep=keep)
    for query in tiny_index.unit_rows(4, seed=1):
        for count in (1, 3, 50, 60):
            numbers, scores = search.nearest(query, count=count)
            order, cosines = slow_nearest(rows, query, count)
            assert numbers.tolist() == order
            np.testing.assert_allclose(scores, cosines, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 8, 9, 40])
def test_ties_are_in_ascending_order(count):
    """Products of halves are exact, so there are many ties."""
    rows = np.random.default_rng(0).choice([-0.5, 0.5], (40, 4)).astype(np.float16)
    numbers, _ = nearest.ExactSearch(rows).nearest(np.float32(rows[7]), count=count)
    assert numbers.tolist() == slow_nearest(rows, rows[7], count)[0]


def test_an_index_is_read_as_it_was_written(tmp_path):
    rows = tiny_index.unit_rows()
    index = shape_index.read(tiny_index.write(tmp_path / "index", rows))
    assert len(index) == tiny_index.COUNT
    assert index.card == tiny_index.tiny_card()
    assert index.teacher == shape_index.Teacher("fake/teacher", "r1", "somewhere")
    assert index.items[4] == shape_index.Item("box/4", "box 4", "maker 4", "CC0", "4.jpg")
    assert [index.items[number].title for number in (0, 1)] == ["box/0", "box 1"]
    np.testing.assert_array_equal(index.rows, rows.astype(np.float16))
    xyz, rgb = random_clouds(tiny_index.COUNT)[4]
    np.testing.assert_allclose(index.xyz[4] / 32_767, xyz, rtol=0, atol=1 / 32_767)
    np.testing.assert_array_equal(index.rgb[4], np.rint(rgb * 255))
    segment, _ = index.layout.locate(4)
    assert isinstance(segment.rows, np.memmap) and isinstance(segment.xyz, np.memmap)
    assert index.picture(4) == picture_files.read(index.picture_path(4))
    with PIL.Image.open(io.BytesIO(index.picture(4))) as picture:
        assert picture.size == (32, 32)


def test_an_index_is_written_atomically(tmp_path):
    rows = tiny_index.unit_rows()
    rows[5] *= 2
    with pytest.raises(ValueError, match="'box/5' has norm 2; expected 1"):
        tiny_index.write(tmp_path / "index", rows)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="12 shapes; expected 13"):
        tiny_index.write(tmp_path / "index", count=13)
    tiny_index.write(tmp_path / "index")
    with pytest.raises(FileExistsError, match="choose another folder"):
        tiny_index.write(tmp_path / "index")


def changed_array(change):
    """Returns a function of the bytes of an array file that changes the array."""

    def apply(data):
        buffer = io.BytesIO()
        np.save(buffer, change(np.load(io.BytesIO(data))))
        return buffer.getvalue()

    return apply


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("rows.npy", lambda data: data[:-300], "is corrupt .*build it again"),
        ("shapes.jsonl", lambda data: data + data[:1], "shapes.jsonl has .* bytes, expected"),
        ("keys.npy", changed_array(lambda keys: keys[:-1]), r"numbers of shapes: \[11, 12\]"),
        ("index.json", lambda data: data.replace(b'"format": 2', b'"format": 0'), "format 0"),
        (
            "index.json",
            lambda data: data.replace(b'"shapes": 12', b'"shapes": 13'),
            "000001 has 12 shapes, expected 13",
        ),
        ("index.json", lambda data: data.replace(b'"points": 128', b'"points": 0'), "points is 0"),
        ("index.json", lambda data: data.replace(b'"000001"', b'"000002"'), "No such file"),
        ("xyz.npy", lambda data: data.replace(b"<i2", b"<u2"), "uint16, expected int16"),
    ],
)
def test_a_corrupt_index_is_rejected(tmp_path, name, change, message):
    folder = tiny_index.write(tmp_path / "index")
    file = folder / name if name == "index.json" else folder / "segments" / "000001" / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(shape_index.CorruptIndexError, match=message):
        shape_index.read(tmp_path / "index")


def test_another_encoder_and_another_teacher_are_rejected(folder):
    index = shape_index.read(folder)
    index.check_encoder("of an encoder")
    with pytest.raises(shape_index.IndexMismatchError, match="of an encode.*of another"):
        index.check_encoder("of another")
    info = tiny_index.FakeTeacher.info
    index.check_teacher(info)
    for field, value in (("name", "openai/clip"), ("revision", "r2"), ("dim", 7)):
        with pytest.raises(shape_index.IndexMismatchError, match=f"{field} = .*{value!r}"):
            index.check_teacher(dataclasses.replace(info, **{field: value}))


def test_the_place_of_the_teacher_is_relative_to_the_index(folder, monkeypatch):
    places = []

    def load(place, **options):
        places.append(place)
        return tiny_index.FakeTeacher()

    monkeypatch.setattr(queries.teachers, "load_teacher", load)
    index = shape_index.read(folder)
    queries.load_teacher(index)
    (folder / "somewhere").mkdir()
    queries.load_teacher(index)
    queries.load_teacher(index, "mine")
    (folder / "somewhere").rmdir()
    assert places == ["somewhere", str((folder / "somewhere").resolve()), "mine"]
    unplaced = dataclasses.replace(index, teacher=shape_index.Teacher("fake/teacher"))
    with pytest.raises(FileNotFoundError, match="pass --teacher"):
        queries.load_teacher(unplaced)


def test_text_and_pictures_find_their_colour(searcher):
    for number, word in enumerate(tiny_index.WORDS):
        assert searcher.find(searcher.embed_text(f"  {word} "), count=1).numbers.tolist() == [
            number
        ]
        colour = tuple(255 * (other == word) for other in tiny_index.WORDS)
        picture = PIL.Image.new("RGB", (4, 4), colour)
        assert searcher.find(searcher.embed_picture(picture), count=1).numbers.tolist() == [number]
    with pytest.raises(ValueError, match="the text is empty"):
        searcher.embed_text("  ")


def test_text_is_averaged_over_the_prompts_for_names(searcher):
    texts = [template.format("red green") for template in queries.prompts.NAME_TEMPLATES]
    rows = searcher.teacher.encode_texts(texts)
    mean = np.mean([row / np.linalg.norm(row) for row in rows], axis=0)
    np.testing.assert_allclose(
        searcher.embed_text("red green"), mean / np.linalg.norm(mean), rtol=0, atol=1e-6
    )


def test_several_texts_equal_each_alone_and_only_new_ones_are_embedded(searcher, monkeypatch):
    sizes = []
    encode = searcher.teacher.encode_texts
    monkeypatch.setattr(
        searcher.teacher, "encode_texts", lambda texts: sizes.append(len(texts)) or encode(texts)
    )
    alone = np.stack([searcher.embed_text(word) for word in ("red", "green blue")])
    rows = searcher.embed_texts(["green  blue", "blue", "red", "teal", "blue"])
    assert sizes == [8, 8, 16]  # a name has eight prompts
    np.testing.assert_array_equal(rows[[2, 0]], alone)
    np.testing.assert_array_equal(rows[1], rows[4])
    np.testing.assert_array_equal(searcher.embed_texts(["blue", "teal"]), rows[[1, 3]])
    assert len(sizes) == 3
    with pytest.raises(ValueError, match="the text is empty"):
        searcher.embed_texts(["red", " "])


def test_the_oldest_texts_are_evicted_from_the_cache(searcher, monkeypatch):
    monkeypatch.setattr(queries, "_CACHED_TEXTS", 2)
    want = searcher.embed_texts(["red", "green", "blue"])
    assert list(searcher._text_cache) == ["green", "blue"]
    np.testing.assert_array_equal(searcher.embed_texts(["red", "green", "blue"]), want)


def test_a_shape_can_be_excluded_from_the_results(searcher):
    row = searcher.shape_row(5)
    np.testing.assert_allclose(np.linalg.norm(row), 1, atol=1e-6)
    everything = searcher.find(row, count=12).numbers.tolist()
    assert everything[0] == 5
    assert searcher.find(row, count=4, exclude=5).numbers.tolist() == everything[1:5]


def test_classes_are_sorted_by_cosine_similarity(searcher):
    found = searcher.classify(
        searcher.embed_text("blue"), ["red", "blue ", "blue", "green", "teal blue"]
    )
    assert [name for name, _ in found][0] == "blue"
    assert sorted(name for name, _ in found) == ["blue", "green", "red", "teal blue"]
    red = searcher.embed_text("red") @ searcher.embed_text("blue")
    assert dict(found)["red"] == pytest.approx(red, abs=1e-6)


def test_parts_of_a_query_are_added_by_weight():
    first, second = np.eye(2)
    np.testing.assert_allclose(queries.mix([first], [3.0]), [1, 0])
    np.testing.assert_allclose(queries.mix([first, second], [3.0, 4.0]), [0.6, 0.8], atol=1e-7)
    np.testing.assert_allclose(queries.mix([first, second], [4.0, -3.0]), [0.8, -0.6], atol=1e-7)
    with pytest.raises(ValueError, match="cancel out"):
        queries.mix([first, first], [1.0, -1.0])
    with pytest.raises(ValueError, match="cancel out"):
        queries.mix([first], [0.0])
    with pytest.raises(ValueError, match="the query has 2 parts and 1 weights"):
        queries.mix([first, second], [1.0])
    with pytest.raises(ValueError, match="finite"):
        queries.mix([first], [float("nan")])


def test_nearer_points_hide_farther_points():
    """The camera is on the front left (azimuth -45 degrees); +x points right and to the front."""
    cube = np.random.default_rng(0).uniform(-0.5, 0.5, (4_000, 3))
    front = cube[:, 0] - cube[:, 1] > 0
    rgb = np.where(front[:, None], [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    data = pictures.draw_cloud(cube, rgb, size=64)
    picture = np.asarray(PIL.Image.open(io.BytesIO(data)), np.float32)
    assert picture.shape == (64, 64, 3)
    assert picture[:4, :4].min() > 200  # white margin, apart from JPEG artefacts
    red = picture[..., 0] - picture[..., 2]
    assert red[45, 32] > 100  # the front is below, the far half of the top face above
    assert red[12, 32] < -50


def test_a_contact_sheet_has_a_tile_per_shape(folder, tmp_path):
    index = shape_index.read(folder)
    for count, size in ((1, (1, 1)), (5, (5, 1)), (7, (5, 2))):
        numbers, scores = np.arange(count), np.linspace(1, 0, count)
        pictures.write_sheet(tmp_path / "s.png", index, numbers, scores, title="x " * 400)
        with PIL.Image.open(tmp_path / "s.png") as sheet:
            assert sheet.size == (216 * size[0], 40 + 306 * size[1])
            assert sheet.getextrema() != ((255, 255),) * 3


def test_without_faiss_the_error_names_the_extra(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(nearest, "ANN_FROM", 10)
    with pytest.raises(nearest.AnnUnsupportedError, match=r'pip install "mrd_jax\[ann\]"'):
        nearest.check_ann(10)
    with pytest.raises(nearest.AnnUnsupportedError, match="faiss is missing"):
        queries.Searcher(shape_index.read(folder), ann=True)


def test_a_small_index_rejects_approximate_search(tmp_path):
    with pytest.raises(ValueError, match="--ann needs at least 200000 shapes, found 12; omit it"):
        tiny_index.write(tmp_path / "index", ann=True)


@pytest.mark.skipif(faiss is None, reason="the extra `ann` is not installed")
def test_approximate_search_finds_the_nearest_with_exact_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(nearest, "ANN_FROM", 10)
    with pytest.raises(FileNotFoundError, match="needs an index that was built with --ann"):
        queries.Searcher(shape_index.read(tiny_index.write(tmp_path / "exact")), ann=True)
    rows = tiny_index.unit_rows(900)
    folder = tiny_index.write(tmp_path / "index", rows, ann=True)
    searcher = queries.Searcher(shape_index.read(folder), ann=True)
    for query in tiny_index.unit_rows(5, seed=1):
        found = searcher.find(query, count=5)
        order, cosines = slow_nearest(rows.astype(np.float16), query, 900)
        for number, score in zip(found.numbers.tolist(), found.scores, strict=True):
            assert score == pytest.approx(cosines[order.index(number)], abs=1e-5)
        assert (np.diff(found.scores) <= 0).all()
    monkeypatch.setattr(nearest, "_PROBES", 120)  # search all lists
    searcher = queries.Searcher(shape_index.read(folder), ann=True)
    for query in tiny_index.unit_rows(5, seed=1):
        order, _ = slow_nearest(rows.astype(np.float16), query, 5)
        assert searcher.find(query, count=5).numbers.tolist() == order
