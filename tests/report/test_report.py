# SPDX-License-Identifier: Apache-2.0
"""Report page, its figures, metrics history and the results table as text."""

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
from mrd_jax.report import figures, shape_cards

EMBEDDINGS = np.stack(
    [CHAIR, CHAIR + 2 * TABLE, TABLE, LAMP + 0.2 * TABLE, LAMP + 0.3 * CHAIR]
).astype(np.float32)
METRICS = [
    {"step": 1, "train/loss": 4.0, "train/contrastive": 3.0, "train/grad_norm": 2.0},
    {"step": 2, "train/loss": 3.0, "train/weight/intra/VV": 0.5, "train/weight/intra/TT": 0.5},
    {"step": 3, "train/loss": 2.5, "test/top1": 0.25, "test/retrieval/points_to_text/recall@5": 1},
]


def rows():
    student = results.from_embeddings(
        EMBEDDINGS, name=results.STUDENT, held_out=held_out(), summary="After 3 steps."
    )
    return [baselines.measure_chance(held_out()), student, baselines.measure_teacher(held_out())]


def write_metrics(folder, entries=METRICS):
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / "metrics.jsonl").write_text(text)


def test_table_is_aligned_and_in_per_cent():
    # Correct: first Stool, Desk, Torch; the true class of the second Stool ranks second.
    assert report.format_table(rows()[:2]) == "\n".join(
        [
            "zero-shot, % of 4 shapes in 3 classes; intervals: Wilson",
            "         top-1  top-3  top-5  mean per class  95% of top-1",
            "chance    33.3  100.0  100.0            33.3",
            "student   75.0  100.0  100.0            83.3  30.1 to 95.4",
        ]
    )


def test_table_without_rows_raises():
    with pytest.raises(ValueError, match="at least one row"):
        report.format_table([])


def test_metrics_are_read_as_one_curve_per_metric(tmp_path):
    write_metrics(tmp_path)
    curves = history.read_metrics(tmp_path / "metrics.jsonl")
    np.testing.assert_array_equal(curves["train/loss"], [[1, 2, 3], [4.0, 3.0, 2.5]])
    np.testing.assert_array_equal(curves["train/grad_norm"], [[1], [2.0]])
    assert "step" not in curves


def test_later_value_of_a_repeated_step_counts(tmp_path):
    write_metrics(tmp_path, [{"step": s, "x": v} for s, v in ((1, 10), (2, 20), (1, 11), (3, 30))])
    curves = history.read_metrics(tmp_path / "metrics.jsonl")
    np.testing.assert_array_equal(curves["x"], [[1, 2, 3], [11, 20, 30]])


def test_non_finite_values_are_read_as_nan(tmp_path):
    write_metrics(tmp_path, [{"step": 1, "x": "nan"}, {"step": 2, "x": "inf"}, {"step": 3, "x": 1}])
    curves = history.read_metrics(tmp_path / "metrics.jsonl")
    np.testing.assert_array_equal(curves["x"][1], [np.nan, np.nan, 1])


def test_incomplete_last_line_is_ignored(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "x": 5}\n{"step": 2, "x"')
    assert history.read_metrics(tmp_path / "metrics.jsonl")["x"][1] == [5.0]


@pytest.mark.parametrize("line", ['{"step": 2, "x"', '{"x": 3}', "[1]"])
def test_invalid_line_raises_with_its_number(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "x": 5}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: "):
        history.read_metrics(tmp_path / "metrics.jsonl")


def test_alternative_texts_give_first_and_last_values(tmp_path):
    write_metrics(tmp_path)
    drawn = figures.draw_curves(history.read_metrics(tmp_path / "metrics.jsonl"))
    texts = {figure.title: figure.alt for figure in drawn}
    assert list(texts) == [
        "Loss",
        "Mixing weights",
        "Gradient norm",
        "Zero-shot accuracy",
        "Retrieval, recall at 5",
    ]
    assert texts["Loss"] == ("Loss, steps 1 to 3: loss from 4 to 2.5; contrastive from 3 to 3.")
    assert (
        texts["Mixing weights"]
        == "Mixing weights, steps 2 to 2: VV from 50 to 50; TT from 50 to 50."
    )
    assert texts["Zero-shot accuracy"].endswith("from 25 to 25.")


def test_figures_are_deterministic(tmp_path):
    write_metrics(tmp_path)
    curves = history.read_metrics(tmp_path / "metrics.jsonl")
    assert figures.draw_curves(curves) == figures.draw_curves(curves)


def test_confusion_figure_excludes_unused_classes():
    table = np.array([[2, 1, 0], [0, 1, 0], [0, 0, 0]])
    figure = figures.draw_confusion(table, class_names=["chair", "table", "lamp"])
    assert figure.alt.startswith("Confusion matrix of 2 classes: 3 of 4 shapes on the diagonal")


def test_cards_have_the_best_classes_and_the_nearest_shapes():
    cards = shape_cards.make_cards(
        EMBEDDINGS,
        held_out=held_out(),
        gallery=held_out(),
        gallery_embeddings=EMBEDDINGS,
        limit=10,
        neighbours=1,
    )
    second = cards[1]
    assert (second.name, second.class_name, second.verdict) == ("Stool", "chair", "wrong")
    assert [(p.class_name, p.correct) for p in second.predictions] == [
        ("table", False),
        ("chair", True),
        ("lamp", False),
    ]
    assert second.predictions[0].score == pytest.approx(2 / np.sqrt(5))
    # The nearest other shape to (1, 2, 0) is the desk at (0, 1, 0).
    assert [(n.name, n.class_name) for n in second.neighbours] == [("Desk", "table")]
    assert second.neighbours[0].credit == "A. Maker, CC0"
    assert (cards[4].class_name, cards[4].verdict) == ("", "")


def test_neighbours_come_from_the_given_gallery():
    gallery = held_out(rows=[record("Bench", label=0, feature=CHAIR)] + records()[2:4])
    cards = shape_cards.make_cards(
        EMBEDDINGS,
        held_out=held_out(),
        gallery=gallery,
        gallery_embeddings=np.stack([CHAIR, TABLE, LAMP]),
        limit=10,
        neighbours=2,
    )
    assert [n.name for n in cards[0].neighbours] == ["Bench", "Desk"]


def test_limit_selects_evenly_spaced_cards():
    cards = shape_cards.make_cards(
        EMBEDDINGS,
        held_out=held_out(),
        gallery=held_out(),
        gallery_embeddings=EMBEDDINGS,
        limit=3,
    )
    assert [card.name for card in cards] == ["Stool", "Desk", "Thing"]


def test_picture_is_reduced_and_gets_a_white_background(tmp_path):
    Image.new("RGBA", (300, 150), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    uri = figures.picture_uri(tmp_path / "clear.png", size=64)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) as image:
        assert image.size == (64, 32)
        assert image.convert("L").getextrema() == (255, 255)


def test_missing_picture_is_an_empty_string(tmp_path):
    assert figures.picture_uri(tmp_path / "none.jpg", size=64) == ""
    assert figures.picture_uri(tmp_path, size=64) == ""


class Page(html.parser.HTMLParser):
    """Parser that collects the tags and the text of a page."""

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
        results=rows(),
        title="A run",
        notes=["The teacher is small."],
    )
    assert target == tmp_path / "report.html"
    return Page(target.read_text("utf-8"))


def test_page_is_well_formed_and_has_no_external_references(page):
    assert page.open == []
    for _, attrs in page.tags:
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    assert not page.all("script")


def test_images_have_alternative_texts_and_tables_have_captions(page):
    assert len(page.all("img")) > 7
    assert all(attrs["alt"] for attrs in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert page.all("html") == [{"lang": "en"}]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = [attrs["href"] for attrs in page.all("a")]
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_page_has_results_comparison_and_credits(page):
    text = re.sub(r"\s+", " ", " ".join(page.text))
    assert "A run" in text and "The teacher is small." in text
    assert "30.1 to 95.4" in text
    assert "After 3 steps." in text
    # Only the student is correct on the desk, only the teacher on the second Stool.
    assert "teacher, 4 shapes: only the student is correct on 1, only teacher on 1" in text
    assert "A. Maker, CC0" in text
    assert "unseen names" in text
    assert "no picture" in text
    assert "nearest to it among 4 other held-out shapes" in text


def test_names_of_shapes_are_escaped(tmp_path):
    markup = '<script>alert("1")</script>'
    split = dataclasses.replace(held_out(), creators=(markup,) * 5, names=(markup,) * 5)
    report.write_report(tmp_path, held_out=split, embeddings=EMBEDDINGS, results=rows())
    text = (tmp_path / "report.html").read_text("utf-8")
    assert markup not in text
    assert "&lt;script&gt;" in text


def test_page_without_metrics_has_no_curves(tmp_path):
    report.write_report(tmp_path, held_out=held_out(), embeddings=EMBEDDINGS, results=rows())
    assert 'id="curves"' not in (tmp_path / "report.html").read_text("utf-8")


def test_gallery_without_embeddings_raises(tmp_path):
    with pytest.raises(ValueError, match="give both or neither"):
        report.write_report(
            tmp_path,
            held_out=held_out(),
            embeddings=EMBEDDINGS,
            results=rows(),
            gallery=held_out(),
        )


def test_table_says_over_how_many_groups_its_intervals_are():
    rows_of = [
        record(f"n{i}", label=i % 3, feature=np.eye(3)[i % 3], id=f"i{i}") for i in range(24)
    ]
    split = held_out(rows=rows_of)
    grouped = dataclasses.replace(split, groups=tuple(f"g{i // 2}" for i in range(24)))
    embeddings = np.random.default_rng(0).normal(size=(24, 3))
    wilson, clustered = (
        results.from_embeddings(embeddings, name=results.STUDENT, held_out=shapes)
        for shapes in (split, grouped)
    )
    assert "; intervals: bootstrap over 12 groups\n" in report.format_table([clustered])
    assert "; intervals: Wilson\n" in report.format_table([wilson])
    assert (
        report.format_table([clustered]).split()[-3:] != report.format_table([wilson]).split()[-3:]
    )
    again = results.from_dict(json.loads(json.dumps(clustered.as_dict())))
    assert report.format_table([again]) == report.format_table([clustered])
