# SPDX-License-Identifier: Apache-2.0
"""The commands classify, coverage, cluster and duplicates, from an index to their files."""

import csv
import dataclasses
import html.parser
import json

import jax
import numpy as np
import pytest
import tiny_index
from tiny_encoder import random_clouds, tiny_card, tiny_variables

from data_prep.teachers import prompts
from mrd_jax import encoder
from mrd_jax.checkpoints import fingerprinting
from mrd_jax.search import queries
from mrd_jax.tools import classify, cluster, coverage, duplicates

pytestmark = pytest.mark.usefixtures("fast_compile")
COLOURS = ("red", "green", "blue", "red green", "green blue", "red blue")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Folder with an encoder, files, a list of classes, and an index of shapes of six colours."""
    folder = tmp_path_factory.mktemp("library")
    encoder.save(folder / "encoder", variables=tiny_variables(), card=tiny_card())
    teacher = tiny_index.FakeTeacher()
    rows = np.repeat(teacher.encode_texts(COLOURS), 4, axis=0)
    rows += 0.05 * np.random.default_rng(0).normal(size=rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    fingerprint = fingerprinting.checkpoint_fingerprint(folder / "encoder")
    tiny_index.write(folder / "index", rows.astype(np.float32), checkpoint=fingerprint)
    (folder / "words.txt").write_text("\n".join([*COLOURS, "", "red", "black"]) + "\n")
    (folder / "files").mkdir()
    for number, (xyz, rgb) in enumerate(random_clouds(3)):
        np.savez(folder / "files" / f"{number}.npz", xyz=xyz, rgb=rgb)
    (folder / "files" / "broken.npz").write_bytes(b"no archive")
    student = encoder.load(folder / "encoder", devices=jax.local_devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "load", lambda *a, **k: student)  # compiled once
        patch.setattr(queries.teachers, "load_teacher", lambda *a, **k: teacher)
        patch.chdir(folder)
        yield folder


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class _Addresses(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.images = [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.found += [v for k, v in attributes.items() if k in ("src", "href")]
        self.images += [attributes] if tag == "img" else []


def check_page(path):
    """Checks that a page fetches nothing and that its pictures have a description."""
    parser = _Addresses()
    parser.feed(path.read_text("utf-8"))
    assert all(address.startswith(("data:", "#")) for address in parser.found)
    assert all(image["alt"] for image in parser.images)
    return parser


def test_classify_writes_the_nearest_classes_of_each_file(workspace, capsys):
    arguments = ["files", "--checkpoint", "encoder", "--index", "index", "--classes", "words.txt"]
    assert classify.main([*arguments, "--output", "labels", "--top", "2"]) == 1  # one is broken
    output, errors = capsys.readouterr()
    assert "labelled 3 files" in output and "1 lines repeat an earlier name" in errors
    rows = table(workspace / "labels" / "labels.csv")
    embedded = encoder.load("encoder").embed(random_clouds(3))
    names = [*COLOURS, "black"]
    # Some prompts have words such as "rendered", in which the teacher sees red.
    scores = embedded @ prompts.prompt_average(tiny_index.FakeTeacher(), names).T
    order = np.argsort(-scores, axis=1)
    assert [row["file"] for row in rows] == ["files/0.npz", "files/1.npz", "files/2.npz"]
    assert [row["class"] for row in rows] == [names[column] for column in order[:, 0]]
    assert [row["class_2"] for row in rows] == [names[column] for column in order[:, 1]]
    best = np.sort(scores, axis=1)[:, ::-1]
    # Files are read in the encoder's axes, of which float32 keeps seven digits.
    np.testing.assert_allclose([float(row["score"]) for row in rows], best[:, 0], atol=1e-3)
    # Random embeddings are nearer to no colour than all shapes of the index are.
    assert {row["none_of_these"] for row in rows} == {"True"}
    content = json.loads((workspace / "labels" / "labels.json").read_text())
    assert [entry["file"] for entry in content["skipped"]] == ["files/broken.npz"]
    assert content["files"][0]["margin"] == pytest.approx(best[0, 0] - best[0, 1], abs=2e-3)
    check_page(workspace / "labels" / "index.html")


def test_none_level_of_zero_never_answers_none_of_these(workspace):
    arguments = ["files/0.npz", "--checkpoint", "encoder", "--index", "index"]
    arguments += ["--classes", "words.txt", "--output", "always", "--none_level", "0"]
    assert classify.main(arguments) == 0
    assert [row["none_of_these"] for row in table(workspace / "always/labels.csv")] == ["False"]


@pytest.fixture
def fine_tuned(workspace, monkeypatch):
    """The encoder with a class head."""
    student = encoder.load("encoder")
    rng = np.random.default_rng(1)
    dim = student.embed(random_clouds(1)).shape[1]
    kernel = 5 * rng.normal(size=(dim, 3)).astype(np.float32)
    head = encoder.ClassHead(("chair", "lamp", "sofa"), kernel, np.zeros(3, np.float32))
    with_head = dataclasses.replace(student, classes=head)
    monkeypatch.setattr(encoder, "load", lambda *a, **k: with_head)
    return with_head


def test_without_a_list_files_get_the_classes_of_the_class_head(workspace, fine_tuned):
    arguments = ["files", "--checkpoint", "encoder", "--output", "by_head", "--top", "3"]
    assert classify.main(arguments) == 1  # one is broken
    rows = table(workspace / "by_head" / "labels.csv")
    logits = fine_tuned.embed(random_clouds(3)) @ fine_tuned.classes.kernel
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = np.argsort(-chances, axis=1)
    names = np.array(fine_tuned.classes.names)[order]
    found = [[row["class"], row["class_2"], row["class_3"]] for row in rows]
    assert found == names.tolist()
    scores = np.array([[float(row["score"]), float(row["score_2"])] for row in rows])
    best = np.take_along_axis(chances, order[:, :2], axis=1)
    np.testing.assert_allclose(scores, best, atol=1e-3)
    margins = [float(row["margin"]) for row in rows]
    np.testing.assert_allclose(margins, scores[:, 0] - scores[:, 1], atol=2e-4)
    assert {(row["level"], row["none_of_these"]) for row in rows} == {("", "False")}
    check_page(workspace / "by_head" / "index.html")

    given = ["files/0.npz", "--checkpoint", "encoder", "--index", "index", "--output", "levels"]
    classify.main(given)
    known = fine_tuned.classes.probabilities(queries.shape_index.read("index").rows).max(axis=1)
    (row,) = table(workspace / "levels" / "labels.csv")
    assert float(row["level"]) == pytest.approx((known <= best[0, 0]).mean(), abs=0.05)


def test_an_encoder_without_class_head_needs_a_list_and_a_list_an_index(workspace, capsys):
    arguments = ["files", "--checkpoint", "encoder", "--output", "none"]
    assert classify.main(arguments) == 2
    assert "encoder has no class head: pass --classes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        classify.main([*arguments, "--classes", "words.txt"])
    assert "--classes needs --index" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        classify.main([*arguments, "--teacher", "words.txt"])
    assert "a class head needs none" in capsys.readouterr().err


def test_coverage_tells_which_classes_have_few_shapes(workspace, capsys):
    arguments = ["index", "--classes", "words.txt", "--output", "coverage", "--few", "5"]
    assert coverage.main(arguments) == 0
    rows = {row["class"]: row for row in table(workspace / "coverage" / "coverage.csv")}
    assert [*rows] == [*COLOURS, "black"]
    assert all(rows[name]["shapes"] == "4" and rows[name]["status"] == "few" for name in COLOURS)
    assert rows["black"]["status"] == "missing"
    assert rows["blue"]["nearest_shape"] in {f"box/{number}" for number in range(8, 12)}
    content = json.loads((workspace / "coverage" / "coverage.json").read_text())
    assert content["classes"] == {"missing": 1, "few": 6, "covered": 0}
    assert content["missing"] == ["black"]
    assert "of 7 classes, 1 have no shape and 6 fewer than 5" in capsys.readouterr().out
    check_page(workspace / "coverage" / "index.html")


def test_cluster_finds_the_colours_and_names_them(workspace):
    arguments = ["index", "--words", "words.txt", "--output", "clusters"]
    assert cluster.main(arguments) == 0
    rows = table(workspace / "clusters" / "clusters.csv")
    named = [row["cluster_name"] for row in rows]
    assert named == [colour for colour in COLOURS for _ in range(4)]
    content = json.loads((workspace / "clusters" / "clusters.json").read_text())
    assert max(content["silhouettes"], key=content["silhouettes"].get) == "6"
    assert [entry["shapes"] for entry in content["clusters"]] == [4] * 6
    page = check_page(workspace / "clusters" / "index.html")
    assert len(page.images) == 24


def test_cluster_of_a_given_number_is_named_by_its_shapes(workspace):
    assert cluster.main(["index", "--k", "2", "--output", "two"]) == 0
    content = json.loads((workspace / "two" / "clusters.json").read_text())
    assert [entry["name"] for entry in content["clusters"]] == ["box", "box 2"]
    assert sum(entry["shapes"] for entry in content["clusters"]) == 24


def test_more_clusters_than_shapes_are_refused(workspace, capsys):
    assert cluster.main(["index", "--k", "99", "--output", "many"]) == 2
    assert "the index has 24 shapes; expected at least 99" in capsys.readouterr().err


def test_duplicates_writes_groups_and_contact_sheets(workspace, capsys):
    """The index has 24 different shapes, random boxes of points, without copies."""
    assert duplicates.main(["index", "--output", "found"]) == 0
    assert "groups with" in capsys.readouterr().out
    groups = json.loads((workspace / "found" / "duplicates.json").read_text())["groups"]
    rows = table(workspace / "found" / "duplicates.csv")
    assert [row["id"] for row in rows] == [row["id"] for group in groups for row in group]
    sheets = sorted(path.name for path in (workspace / "found").glob("*.png"))
    assert sheets == [f"group-{number:04d}.png" for number in range(1, len(groups) + 1)]
    check_page(workspace / "found" / "index.html")
