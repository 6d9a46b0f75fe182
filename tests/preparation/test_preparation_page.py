# SPDX-License-Identifier: Apache-2.0
"""The page that a build leaves: counts, skipped items, and cards of random shapes."""

import base64
import io
import re

import PIL.Image
import pytest
from fake_data import FakeTeacher, prepare_all, run_build

from data_prep import captions, page


class Teacher(FakeTeacher):
    def count_truncated(self, texts):
        return 0


@pytest.fixture
def built(copied, tmp_path, monkeypatch, capsys):
    """Text of the page of a build with a hostile caption."""
    path = tmp_path / "c.csv"
    path.write_text('Thing #1/ü,<script>alert("1")</script>\n')
    files = (captions.parse(f"{path}:caption"),)
    run_build(copied, monkeypatch, teacher=Teacher(), captions=files, overwrite=True)
    where = copied / "fake" / "preparation.html"
    assert f"skipped items and random shapes: {where}" in capsys.readouterr().out
    return where.read_text("utf-8")


def test_page_has_counts_skipped_items_and_notes(built):
    cells = dict(re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td>', built))
    assert cells["items read"] == "40" and cells["skipped"] == "1"
    assert cells["records, split train"] == "29" and cells["records, split test"] == "10"
    assert cells["no surface"] == "1" and "Thing #7/ü" in built
    assert "c.csv (caption): 1 rows, 1 of them match 1 of 40 shapes" in built


def test_every_shape_has_a_card_with_its_captions_and_pictures(built):
    cards = built.split('<li class="card">')[1:]
    shapes = prepare_all()
    assert len(cards) == len(shapes) == 39  # fewer than a page holds
    for card, shape in zip(cards, shapes.values(), strict=True):
        assert f"{shape.id}" in card and f"author {shape.id.split('#')[1][:-2]}" in card
        listed = re.findall(r"<li><b>(.*?)</b>: (.*?)</li>", card)
        assert listed[: len(shape.captions)] == list(shape.captions)
        assert ("no pictures" in card) == (not shape.images)


def test_texts_are_escaped_and_nothing_is_loaded_from_elsewhere(built):
    assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;" in built and "<script" not in built
    assert not re.search(r'(?:src|href)="(?!data:|#)', built)


def test_pictures_are_side_by_side_on_white():
    def encoded(colour, size):
        buffer = io.BytesIO()
        PIL.Image.new("RGB", size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    colours = ["red", "red", "lime", "lime", "blue", "blue"]
    strip = page._strip([encoded(colour, (200, 100)) for colour in colours])
    assert strip.size == (4 * page.SIDE, page.SIDE)
    middles = [strip.getpixel((place * page.SIDE + 40, 20)) for place in range(4)]
    assert middles == [(255, 0, 0), (0, 255, 0), (0, 255, 0), (0, 0, 255)]
    assert strip.getpixel((5, page.SIDE - 5)) == (255, 255, 255)


def test_a_page_of_many_shapes_shows_some_at_random_and_always_the_same(copied, monkeypatch):
    monkeypatch.setattr(page, "SHAPES", 5)
    texts = []
    for _ in range(2):
        (copied / "fake" / "preparation.html").unlink()
        run_build(copied, monkeypatch)
        texts.append((copied / "fake" / "preparation.html").read_text("utf-8"))
    assert texts[0] == texts[1] and texts[0].count('<li class="card">') == 5
    assert "5 of 39 records, drawn at random" in texts[0]
    picture = base64.b64decode(re.search(r'src="data:image/jpeg;base64,(.*?)"', texts[0])[1])
    assert PIL.Image.open(io.BytesIO(picture)).format == "JPEG"
