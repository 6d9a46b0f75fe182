# SPDX-License-Identifier: Apache-2.0
"""The index on disk, and what is found in it."""

import dataclasses
import io
import sys

import numpy as np
import PIL.Image
import pytest
import tiny_index
from tiny_encoder import random_clouds

from mrd_jax.search import index as indices
from mrd_jax.search import nearest, pictures, queries

try:
    import faiss  # noqa: F401 - whether it is here
except ModuleNotFoundError:
    faiss = None


def slow_nearest(rows, query, count):
    """By the definition: every cosine, sorted, the lower number first among equals."""
    cosines = [float(np.float64(row) @ np.float64(query)) for row in rows]
    order = sorted(range(len(rows)), key=lambda number: (-cosines[number], number))[:count]
    return order, [cosines[number] for number in order]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_index.write(tmp_path_factory.mktemp("search") / "index")


@pytest.fixture
def searcher(folder):
    return queries.Searcher(indices.read(folder), teacher=tiny_index.FakeTeacher())


@pytest.mark.parametrize("keep", [0, nearest.KEEP], ids=["widened at each query", "kept"])
def test_exact_search_finds_what_a_loop_finds(keep, monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 7)  # the last is not full
    rows = tiny_index.unit_rows(50).astype(np.float16)
    search = nearest.ExactSearch(rows, keep=keep)
    for query in tiny_index.unit_rows(4, seed=1):
        for count in (1, 3, 50, 60):
            numbers, scores = search.nearest(query, count=count)
            order, cosines = slow_nearest(rows, query, count)
            assert numbers.tolist() == order
            np.testing.assert_allclose(scores, cosines, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 8, 9, 40])
def test_of_equals_the_lower_number_comes_first(count):
    """Halves multiply without rounding."""
    rows = np.random.default_rng(0).choice([-0.5, 0.5], (40, 4)).astype(np.float16)
    numbers, _ = nearest.ExactSearch(rows).nearest(np.float32(rows[7]), count=count)
    assert numbers.tolist() == slow_nearest(rows, rows[7], count)[0]


def test_an_index_comes_back_as_it_was_written(tmp_path):
    rows = tiny_index.unit_rows()
    index = indices.read(tiny_index.write(tmp_path / "index", rows))
    assert len(index) == tiny_index.COUNT
    assert index.card == tiny_index.tiny_card()
    assert index.teacher == indices.Teacher("fake/teacher", "r1", "somewhere")
    assert index.items[4] == indices.Item("box/4", "box 4", "maker 4", "CC0", "4.jpg")
    assert [index.items[place].title for place in (0, 1)] == ["box/0", "box 1"]
    np.testing.assert_array_equal(index.rows, rows.astype(np.float16))
    xyz, rgb = random_clouds(tiny_index.COUNT)[4]
    np.testing.assert_allclose(index.xyz[4] / 32_767, xyz, rtol=0, atol=1 / 32_767)
    np.testing.assert_array_equal(index.rgb[4], np.rint(rgb * 255))
    assert isinstance(index.rows, np.memmap) and isinstance(index.xyz, np.memmap)
    with PIL.Image.open(index.picture(4)) as picture:
        assert picture.size == (32, 32)


def test_an_index_is_written_whole_or_not_at_all(tmp_path):
    rows = tiny_index.unit_rows()
    rows[5] *= 2
    with pytest.raises(ValueError, match="'box/5' has norm 2; expected 1"):
        tiny_index.write(tmp_path / "index", rows)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="12 shapes came, 13 were announced"):
        tiny_index.write(tmp_path / "index", count=13)
    tiny_index.write(tmp_path / "index")
    with pytest.raises(FileExistsError, match="choose another folder"):
        tiny_index.write(tmp_path / "index")


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("rows.npy", lambda data: data[:-300], "damaged index .*build it again"),
        ("shapes.jsonl", lambda data: data + data[:1], "damaged index"),
        ("shapes.jsonl", lambda data: data + data.split(b"\n")[0], r"of \[12, 13\] shapes"),
        (
            "shapes.jsonl",
            lambda data: data.replace(b'"4.jpg', b'"../4.jpg'),
            "is no name of a file",
        ),
        ("index.json", lambda data: data.replace(b'"format": 1', b'"format": 0'), "format 0"),
        ("index.json", lambda data: data.replace(b'"points": 128', b'"points": 0'), "points is 0"),
        ("xyz.npy", lambda data: data.replace(b"<i2", b"<u2"), "uint16, expected int16"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, name, change, message):
    file = tiny_index.write(tmp_path / "index") / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(indices.DamagedIndexError, match=message):
        indices.read(tmp_path / "index")


def test_another_encoder_and_another_teacher_are_refused(folder):
    index = indices.read(folder)
    index.check_encoder("of an encoder")
    with pytest.raises(indices.IndexMismatchError, match="of an encode.*of another"):
        index.check_encoder("of another")
    info = tiny_index.FakeTeacher.info
    index.check_teacher(info)
    for field, value in (("name", "openai/clip"), ("revision", "r2"), ("dim", 7)):
        with pytest.raises(indices.IndexMismatchError, match=f"{field} = .*{value!r}"):
            index.check_teacher(dataclasses.replace(info, **{field: value}))


def test_the_teacher_is_looked_for_beside_the_index(folder, monkeypatch):
    asked = []

    def load(place, **options):
        asked.append(place)
        return tiny_index.FakeTeacher()

    monkeypatch.setattr(queries.teachers, "load_teacher", load)
    index = indices.read(folder)
    queries.load_teacher(index)
    (folder / "somewhere").mkdir()
    queries.load_teacher(index)
    queries.load_teacher(index, "mine")
    (folder / "somewhere").rmdir()
    assert asked == ["somewhere", str((folder / "somewhere").resolve()), "mine"]
    unknown = dataclasses.replace(index, teacher=indices.Teacher("fake/teacher"))
    with pytest.raises(FileNotFoundError, match="pass --teacher"):
        queries.load_teacher(unknown)


def test_words_and_pictures_find_their_colour(searcher):
    for number, word in enumerate(tiny_index.WORDS):
        assert searcher.find(searcher.text(f"  {word} "), count=1).numbers.tolist() == [number]
        colour = tuple(255 * (other == word) for other in tiny_index.WORDS)
        picture = PIL.Image.new("RGB", (4, 4), colour)
        assert searcher.find(searcher.picture(picture), count=1).numbers.tolist() == [number]
    with pytest.raises(ValueError, match="no words"):
        searcher.text("  ")


def test_words_are_averaged_over_the_prompts_of_names(searcher):
    texts = [template.format("red green") for template in queries.prompts.NAME_TEMPLATES]
    rows = searcher.teacher.encode_texts(texts)
    mean = np.mean([one / np.linalg.norm(one) for one in rows], axis=0)
    np.testing.assert_allclose(
        searcher.text("red green"), mean / np.linalg.norm(mean), rtol=0, atol=1e-6
    )


def test_texts_come_as_each_alone_and_only_new_ones_are_embedded(searcher, monkeypatch):
    asked = []
    encode = searcher.teacher.encode_texts
    monkeypatch.setattr(
        searcher.teacher, "encode_texts", lambda texts: asked.append(len(texts)) or encode(texts)
    )
    alone = np.stack([searcher.text(word) for word in ("red", "green blue")])
    rows = searcher.texts(["green  blue", "blue", "red", "teal", "blue"])
    assert asked == [8, 8, 16]  # a name has eight prompts
    np.testing.assert_array_equal(rows[[2, 0]], alone)
    np.testing.assert_array_equal(rows[1], rows[4])
    np.testing.assert_array_equal(searcher.texts(["blue", "teal"]), rows[[1, 3]])
    assert len(asked) == 3
    with pytest.raises(ValueError, match="no words"):
        searcher.texts(["red", " "])


def test_texts_that_were_asked_for_long_ago_are_embedded_again(searcher, monkeypatch):
    monkeypatch.setattr(queries, "_KEPT_TEXTS", 2)
    want = searcher.texts(["red", "green", "blue"])
    assert list(searcher._known) == ["green", "blue"]
    np.testing.assert_array_equal(searcher.texts(["red", "green", "blue"]), want)


def test_more_like_a_shape_leaves_the_shape_out(searcher):
    row = searcher.shape(5)
    np.testing.assert_allclose(np.linalg.norm(row), 1, atol=1e-6)
    whole = searcher.find(row, count=12).numbers.tolist()
    assert whole[0] == 5
    assert searcher.find(row, count=4, leave_out=5).numbers.tolist() == whole[1:5]


def test_classes_come_by_their_cosine(searcher):
    found = searcher.classify(searcher.text("blue"), ["red", "blue ", "blue", "green", "teal blue"])
    assert [name for name, _ in found][0] == "blue"
    assert sorted(name for name, _ in found) == ["blue", "green", "red", "teal blue"]
    red = searcher.text("red") @ searcher.text("blue")
    assert dict(found)["red"] == pytest.approx(red, abs=1e-6)


def test_parts_of_a_question_are_added_by_weight():
    one, other = np.eye(2)
    np.testing.assert_allclose(queries.mix([one], [3.0]), [1, 0])
    np.testing.assert_allclose(queries.mix([one, other], [3.0, 4.0]), [0.6, 0.8], atol=1e-7)
    np.testing.assert_allclose(queries.mix([one, other], [4.0, -3.0]), [0.8, -0.6], atol=1e-7)
    with pytest.raises(ValueError, match="cancel out"):
        queries.mix([one, one], [1.0, -1.0])
    with pytest.raises(ValueError, match="cancel out"):
        queries.mix([one], [0.0])
    with pytest.raises(ValueError, match="2 parts of a query, but 1 weights"):
        queries.mix([one, other], [1.0])
    with pytest.raises(ValueError, match="finite"):
        queries.mix([one], [float("nan")])


def test_nearer_points_hide_farther_ones_and_colours_stay_in_their_places():
    """Seen from the left front (azimuth -45 degrees): +x is to the right and in front."""
    cube = np.random.default_rng(0).uniform(-0.5, 0.5, (4_000, 3))
    front = cube[:, 0] - cube[:, 1] > 0
    rgb = np.where(front[:, None], [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    data = pictures.draw_cloud(cube, rgb, size=64)
    picture = np.asarray(PIL.Image.open(io.BytesIO(data)), np.float32)
    assert picture.shape == (64, 64, 3)
    assert picture[:4, :4].min() > 200  # white around it, but for JPEG's ripples
    red = picture[..., 0] - picture[..., 2]
    assert red[45, 32] > 100  # below is the front, above the top face with its far half
    assert red[12, 32] < -50


def test_a_sheet_has_a_tile_for_every_shape(folder, tmp_path):
    index = indices.read(folder)
    for count, size in ((1, (1, 1)), (5, (5, 1)), (7, (5, 2))):
        numbers, scores = np.arange(count), np.linspace(1, 0, count)
        pictures.write_sheet(tmp_path / "s.png", index, numbers, scores, title="x " * 400)
        with PIL.Image.open(tmp_path / "s.png") as sheet:
            assert sheet.size == (216 * size[0], 40 + 306 * size[1])
            assert sheet.getextrema() != ((255, 255),) * 3


def test_without_faiss_the_extra_is_named(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(nearest, "ANN_FROM", 10)
    with pytest.raises(nearest.AnnUnsupportedError, match=r'pip install "mrd_jax\[ann\]"'):
        nearest.check_ann(10)
    with pytest.raises(nearest.AnnUnsupportedError, match="faiss is missing"):
        queries.Searcher(indices.read(folder), ann=True)


def test_lists_are_refused_where_exact_search_is_fast(tmp_path):
    with pytest.raises(ValueError, match="for 200000 shapes and more, and there are 12: leave"):
        tiny_index.write(tmp_path / "index", ann=True)


@pytest.mark.skipif(faiss is None, reason="the extra `ann` is not installed")
def test_approximate_search_finds_the_nearest_with_exact_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(nearest, "ANN_FROM", 10)
    with pytest.raises(FileNotFoundError, match="build the index with --ann"):
        queries.Searcher(indices.read(tiny_index.write(tmp_path / "exact")), ann=True)
    rows = tiny_index.unit_rows(900)
    folder = tiny_index.write(tmp_path / "index", rows, ann=True)
    searcher = queries.Searcher(indices.read(folder), ann=True)
    for query in tiny_index.unit_rows(5, seed=1):
        found = searcher.find(query, count=5)
        order, cosines = slow_nearest(rows.astype(np.float16), query, 900)
        for number, score in zip(found.numbers.tolist(), found.scores, strict=True):
            assert score == pytest.approx(cosines[order.index(number)], abs=1e-5)
        assert (np.diff(found.scores) <= 0).all()
    monkeypatch.setattr(nearest, "_PROBES", 120)  # all lists
    searcher = queries.Searcher(indices.read(folder), ann=True)
    for query in tiny_index.unit_rows(5, seed=1):
        order, _ = slow_nearest(rows.astype(np.float16), query, 5)
        assert searcher.find(query, count=5).numbers.tolist() == order
