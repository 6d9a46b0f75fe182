# SPDX-License-Identifier: Apache-2.0
"""The report page, its figures, and the results table as text."""

import base64
import dataclasses
import html.parser
import io
import json
import re

import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE, held_out, record, records
from PIL import Image

from mrd_jax import report
from mrd_jax.evaluation import baselines, history, results
from mrd_jax.report import cards, figures

EMBEDDINGS = np.stack(
    [CHAIR, CHAIR + 2 * TABLE, TABLE, LAMP + 0.2 * TABLE, LAMP + 0.3 * CHAIR]
).astype(np.float32)
METRICS = [
    {"step": 1, "train/loss": 4.0, "train/contrastive": 3.0, "train/grad_norm": 2.0},
    {"step": 2, "train/loss": 3.0, "train/weight/intra/VV": 0.5, "train/weight/intra/TT": 0.5},
    {"step": 3, "train/loss": 2.5, "test/top1": 0.25, "test/retrieval/points_to_text/recall@5": 1},
]


def lines():
    student = results.from_embeddings(
        EMBEDDINGS, name=results.STUDENT, held_out=held_out(), summary="After 3 steps."
    )
    return [baselines.chance(held_out()), student, baselines.ceiling(held_out())]


def write_metrics(folder, entries=METRICS):
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / "metrics.jsonl").write_text(text)


def test_the_table_is_aligned_and_in_per_cent():
    # Right: first Stool, Desk, Torch; the second Stool is second best. Chairs 1 of 2.
    assert report.format_table(lines()[:2]) == "\n".join(
        [
            "zero-shot, % of 4 shapes in 3 classes",
            "         top-1  top-3  top-5  mean per class  95% of top-1",
            "chance    33.3  100.0  100.0            33.3",
            "student   75.0  100.0  100.0            83.3  30.1 to 95.4",
        ]
    )


def test_a_table_needs_rows():
    with pytest.raises(ValueError, match="at least one row"):
        report.format_table([])


def test_metrics_are_read_as_one_curve_per_key(tmp_path):
    write_metrics(tmp_path)
    curves = history.read_metrics(tmp_path / "metrics.jsonl")
    np.testing.assert_array_equal(curves["train/loss"], [[1, 2, 3], [4.0, 3.0, 2.5]])
    np.testing.assert_array_equal(curves["train/grad_norm"], [[1], [2.0]])
    assert "step" not in curves


def test_a_step_that_was_run_twice_counts_once_with_its_later_value(tmp_path):
    write_metrics(tmp_path, [{"step": s, "x": v} for s, v in ((1, 10), (2, 20), (1, 11), (3, 30))])
    curves = history.read_metrics(tmp_path / "metrics.jsonl")
    np.testing.assert_array_equal(curves["x"], [[1, 2, 3], [11, 20, 30]])


def test_a_number_that_is_not_finite_is_a_gap(tmp_path):
    write_metrics(tmp_path, [{"step": 1, "x": "nan"}, {"step": 2, "x": "inf"}, {"step": 3, "x": 1}])
    curves = history.read_metrics(tmp_path / "metrics.jsonl")
    np.testing.assert_array_equal(curves["x"][1], [np.nan, np.nan, 1])


def test_a_last_line_cut_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "x": 5}\n{"step": 2, "x"')
    assert history.read_metrics(tmp_path / "metrics.jsonl")["x"][1] == [5.0]


@pytest.mark.parametrize("line", ['{"step": 2, "x"', '{"x": 3}', "[1]"])
def test_a_broken_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "x": 5}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: "):
        history.read_metrics(tmp_path / "metrics.jsonl")


def test_figures_say_in_words_what_they_show(tmp_path):
    write_metrics(tmp_path)
    drawn = figures.curves(history.read_metrics(tmp_path / "metrics.jsonl"))
    words = {figure.title: figure.alt for figure in drawn}
    assert list(words) == [
        "Loss",
        "Mixing weights",
        "Gradient norm",
        "Zero-shot accuracy",
        "Retrieval, recall at 5",
    ]
    assert words["Loss"] == ("Loss, steps 1 to 3: loss from 4 to 2.5; contrastive from 3 to 3.")
    assert (
        words["Mixing weights"]
        == "Mixing weights, steps 2 to 2: VV from 50 to 50; TT from 50 to 50."
    )
    assert words["Zero-shot accuracy"].endswith("from 25 to 25.")


def test_the_same_run_gives_the_same_figures(tmp_path):
    write_metrics(tmp_path)
    curves = history.read_metrics(tmp_path / "metrics.jsonl")
    assert figures.curves(curves) == figures.curves(curves)


def test_the_confusion_figure_leaves_out_unused_classes():
    table = np.array([[2, 1, 0], [0, 1, 0], [0, 0, 0]])
    figure = figures.confusion(table, class_names=["chair", "table", "lamp"])
    assert figure.alt.startswith("Confusion matrix of 2 classes: 3 of 4 shapes on the diagonal")


def test_cards_hold_the_best_classes_and_the_nearest_shapes():
    made = cards.make_cards(
        EMBEDDINGS,
        held_out=held_out(),
        gallery=held_out(),
        gallery_embeddings=EMBEDDINGS,
        limit=10,
        neighbours=1,
    )
    second = made[1]
    assert (second.name, second.class_name, second.verdict) == ("Stool", "chair", "wrong")
    assert [(p.class_name, p.right) for p in second.predictions] == [
        ("table", False),
        ("chair", True),
        ("lamp", False),
    ]
    assert second.predictions[0].score == pytest.approx(2 / np.sqrt(5))
    # Nearest to (1, 2, 0) but itself is the desk at (0, 1, 0).
    assert [(n.name, n.class_name) for n in second.neighbours] == [("Desk", "table")]
    assert second.neighbours[0].credit == "A. Maker, CC0"
    assert (made[4].class_name, made[4].verdict) == ("", "")


def test_neighbours_may_come_from_another_gallery():
    gallery = held_out(rows=[record("Bench", label=0, feature=CHAIR)] + records()[2:4])
    made = cards.make_cards(
        EMBEDDINGS,
        held_out=held_out(),
        gallery=gallery,
        gallery_embeddings=np.stack([CHAIR, TABLE, LAMP]),
        limit=10,
        neighbours=2,
    )
    assert [n.name for n in made[0].neighbours] == ["Bench", "Desk"]


def test_a_limit_thins_the_cards_evenly():
    made = cards.make_cards(
        EMBEDDINGS,
        held_out=held_out(),
        gallery=held_out(),
        gallery_embeddings=EMBEDDINGS,
        limit=3,
    )
    assert [card.name for card in made] == ["Stool", "Desk", "Thing"]


def test_a_picture_is_shrunk_and_put_on_white(tmp_path):
    Image.new("RGBA", (300, 150), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    uri = cards.picture_uri(tmp_path / "clear.png", size=64)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) as image:
        assert image.size == (64, 32)
        assert image.convert("L").getextrema() == (255, 255)


def test_a_missing_picture_is_empty(tmp_path):
    assert cards.picture_uri(tmp_path / "none.jpg", size=64) == ""
    assert cards.picture_uri(tmp_path, size=64) == ""


class Page(html.parser.HTMLParser):
    """Collects what the tests ask about a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    write_metrics(tmp_path)
    Image.new("RGB", (128, 128), "red").save(tmp_path / "Stool.jpg")
    target = report.write_report(
        tmp_path,
        held_out=held_out(pictures=tmp_path),
        embeddings=EMBEDDINGS,
        results=lines(),
        title="A run",
        notes=["The teacher is small."],
    )
    assert target == tmp_path / "report.html"
    return Page(target.read_text("utf-8"))


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(page):
    assert page.open == []
    for _, attrs in page.tags:
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    assert not page.all("script")


def test_every_picture_has_words_and_every_table_a_caption(page):
    assert len(page.all("img")) > 7
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert page.all("html") == [{"lang": "en"}]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in page.all("a")]
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_the_page_holds_the_results_the_comparison_and_the_credits(page):
    text = re.sub(r"\s+", " ", " ".join(page.text))
    assert "A run" in text and "The teacher is small." in text
    assert "30.1 to 95.4" in text
    assert "After 3 steps." in text
    # The student alone is right on the desk, the ceiling alone on the second Stool.
    assert "ceiling, 4 shapes: 1 only the student got right, 1 only the ceiling" in text
    assert "A. Maker, CC0" in text
    assert "unseen names" in text
    assert "no picture" in text
    assert "nearest to it among 4 other held-out shapes" in text


def test_a_name_from_a_stranger_cannot_become_markup(tmp_path):
    evil = '<script>alert("1")</script>'
    split = dataclasses.replace(held_out(), creators=(evil,) * 5, names=(evil,) * 5)
    report.write_report(tmp_path, held_out=split, embeddings=EMBEDDINGS, results=lines())
    text = (tmp_path / "report.html").read_text("utf-8")
    assert evil not in text
    assert "&lt;script&gt;" in text


def test_without_metrics_there_are_no_curves(tmp_path):
    report.write_report(tmp_path, held_out=held_out(), embeddings=EMBEDDINGS, results=lines())
    assert 'id="curves"' not in (tmp_path / "report.html").read_text("utf-8")


def test_a_gallery_needs_its_embeddings(tmp_path):
    with pytest.raises(ValueError, match="give both or neither"):
        report.write_report(
            tmp_path,
            held_out=held_out(),
            embeddings=EMBEDDINGS,
            results=lines(),
            gallery=held_out(),
        )
