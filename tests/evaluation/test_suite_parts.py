# SPDX-License-Identifier: Apache-2.0
"""The suite without an encoder: which sets fit, hashes, published rows, the page, the command."""

import hashlib

import numpy as np
import pytest
from absl import app
from made_up import DIM, POINTS
from tiny_encoder import tiny_card

from configs import benchmarks, quickstart
from data_prep.geometry import clouds
from mrd_jax import main
from mrd_jax.checkpoints import hashes, paths, run_identity
from mrd_jax.data import source
from mrd_jax.evaluation import benchmark, results
from mrd_jax.evaluation.benchmark import measure, page, published, test_sets
from mrd_jax.training import train


def card(**changes):
    student = tiny_card().student | {"out_dim": DIM}
    return tiny_card(student=student, teacher_dim=DIM, points=POINTS // 2, **changes)


def test_what_fits_has_no_fault(made):
    assert test_sets.misfit(source.read_metadata(made), card=card(), windows=2) == ""


@pytest.mark.parametrize(
    "metadata, windows, reason",
    [
        ({}, 3, "its clouds have 24 points, and 3 of 12 each are asked for"),
        ({"counts": {"train": 9, "classes": 2}}, 1, "it has no split 'test', only ['train']"),
        ({"counts": {"test": 9, "classes": 0}}, 1, "it has no classes"),
        ({"from_y_up": None}, 1, "it does not say how y up became z up"),
        ({"normalisation": "cube"}, 1, "its normalisation is 'cube' and the encoder's 'unit_"),
        ({"up_axis": "y"}, 1, "its up axis is 'y' and the encoder's 'z'"),
        ({"teacher": {"name": "a/b", "dim": DIM}}, 1, "its teacher is 'a/b' and the encoder's 'f"),
        (
            {"teacher": {"name": "fake/teacher", "dim": 7}},
            1,
            "its length of the teacher's features",
        ),
    ],
)
def test_what_does_not_fit_is_said(made, metadata, windows, reason):
    changed = source.read_metadata(made) | metadata
    changed = {name: value for name, value in changed.items() if value is not None}
    assert test_sets.misfit(changed, card=card(), windows=windows).startswith(reason)


def test_two_versions_of_a_set_are_not_chosen_between(tmp_path):
    for version in ("1.0.0", "2.0.0"):
        (tmp_path / "lvis" / version).mkdir(parents=True)
        (tmp_path / "lvis" / version / "dataset_info.json").write_text("{}")
    config = benchmarks.get_config()
    config.data = str(tmp_path)
    with pytest.raises(ValueError, match=r"lvis has versions \['1.0.0', '2.0.0'\]; keep one"):
        test_sets.find(config, card=card())


@pytest.mark.parametrize("own, other", [("rotate", "swap"), ("swap", "rotate")])
def test_mirrored_clouds_are_those_of_the_other_convention(own, other):
    """To the bit: as if the set had been prepared for the encoder."""
    raw = np.random.default_rng(0).normal(size=(32, 3)) + [1, 2, 3]

    def prepared(from_y_up):
        conventions = clouds.Conventions(24, "z", from_y_up, "unit_sphere", 0.4)
        return clouds.prepare_cloud(raw, conventions=conventions, up="y").xyz.astype(np.float16)

    record = {"xyz": prepared(own), "rgb": np.zeros((24, 3), np.uint8)}
    ((got, _),) = measure._clouds([record], windows=1, points=24, mirrored=True)
    np.testing.assert_array_equal(got, prepared(other))
    assert np.abs(got - record["xyz"]).max() > 0.1


def test_a_folder_is_hashed_as_sha256sum_does(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"one")
    (tmp_path / "a").write_bytes(b"two")
    lines = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in (("a", b"two"), ("b/x", b"one"))
    )
    want = hashlib.sha256(lines.encode()).hexdigest()
    assert hashes.checkpoint(tmp_path) == want


def test_of_a_run_the_newest_step_alone_is_hashed(tmp_path):
    (tmp_path / run_identity.RUN_FILE).write_text("{}")
    for step in ("9", "10"):
        (tmp_path / paths.FOLDER / step).mkdir(parents=True)
        (tmp_path / paths.FOLDER / step / "state").write_text(step)
    before = hashes.checkpoint(tmp_path)
    (tmp_path / paths.FOLDER / "9" / "state").write_text("other")
    (tmp_path / "metrics.jsonl").write_text("{}")
    assert hashes.checkpoint(tmp_path) == before
    (tmp_path / paths.FOLDER / "10" / "state").write_text("other")
    assert hashes.checkpoint(tmp_path) != before


def test_the_hash_of_the_config_tells_what_is_done_and_not_where(tmp_path):
    def marked(**fields):
        config = benchmarks.get_config()
        config.checkpoint = str(tmp_path)
        config.update(fields)
        return hashes.marks(config)["hashes"]["config"]

    assert marked(data="elsewhere", sets=("lvis",)) == marked()
    for name, value in benchmarks.get_config().items():
        if name not in hashes.PLACES:
            other = not value if isinstance(value, bool) else value + 1
            assert marked(**{name: other}) != marked(), name


def rows_of(method):
    return [row for row in published.rows() if row.method == method]


def test_published_rows_are_those_of_their_sources():
    """Three typed again from the papers; the rest by their form."""
    pointbert = {row.training: row for row in rows_of("OpenShape PointBERT")}
    assert pointbert["E"].figures["objaverse_lvis"] == (46.8, 69.1, 77.0)
    assert pointbert["N"].figures["modelnet40"] == (85.3, 96.2, 97.4)
    (uni3d,) = [row for row in rows_of("Uni3D g") if row.training == "E"]
    assert uni3d.figures["scanobjectnn"] == (63.9, None, 91.7)
    assert uni3d.source == "baaivision/Uni3D README"
    methods = " ".join(row.method for row in published.rows())
    for name in ("OpenShape", "ULIP-2", "TAMM", "MixCon3D", "ViT-Lens", "Uni3D"):
        assert name in methods
    keys = [(row.method, row.training, row.source) for row in published.rows()]
    assert len(set(keys)) == len(keys)
    for row in published.rows():
        assert row.training in published.TRAINING and row.source
        for triple in row.figures.values():
            given = [value for value in triple if value is not None]
            assert given == sorted(given) and all(0 < value < 100 for value in given)


def suite_of(**sources):
    """What results.json holds of sets whose student was right so often; name -> (source, top1)."""

    def figures(name, top1):
        metrics = {"top1": top1, "top3": 0.5, "top5": 0.75, "mean_per_class": 0.2}
        metrics |= {"count": 8, "classes": 4}
        right = np.arange(8) < 8 * top1
        lines = [results.Result("chance", "", metrics | {"top1": 0.25})]
        lines.append(results.Result(results.STUDENT, "", metrics, right))
        return {
            "source": name, "data": "abc", "points": 10_000, "mirrored": name == "modelnet40",
            "counts": {"test": 9, "labelled": 8, "classes": 4},
            "results": [each.as_dict() for each in lines],
        }  # fmt: skip

    return {
        "config": {"checkpoint": "encoders/mine", "windows": 1},
        "seed": 0,
        "hashes": dict.fromkeys(("config", "checkpoint", "code"), "0123456789abcdef0"),
        "versions": {"jax": "1.2"},
        "encoder": card().as_dict(),
        "sets": {name: figures(*of) for name, of in sources.items()},
        "skipped": {},
    }


def test_the_own_row_stands_on_top_and_what_was_not_measured_is_a_dash():
    lines = page.field_table(suite_of(net=("modelnet40", 0.125), chairs=("folder", 1))).splitlines()
    assert lines[0].startswith("| encoder | training set | Objaverse-LVIS | ModelNet40 | ScanObje")
    assert lines[2] == ("| **encoders/mine** |  | - | 12.5 / 50.0 / 75.0 | - | measured here |")
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | --- |"
    assert "| ViT-Lens L | S | - | 70.6 / - / 94.4 | - | TencentARC/ViT-Lens MODEL_ZOO |" in lines
    assert len(lines) == 3 + len(published.rows())
    assert (
        "| OpenShape PointBERT | E | 46.8 / 69.1 / 77.0 | 84.4 / 96.5 / 98.0 | 52.2 / 79.7 / 88.7 "
        "| OpenShape paper (arXiv 2305.10764), Table 2 |"
    ) in lines
    sets_in_order = [line.split(" | ")[1] for line in lines[3:]]
    assert sets_in_order == sorted(sets_in_order, key="-SNE".index)


def test_a_variant_of_scanobjectnn_is_another_set_than_the_published_one():
    own = page.field_table(suite_of(net=("scanobjectnn_pb_t25", 0.5))).splitlines()[2]
    assert "50.0" not in own


def test_the_page_marks_what_others_published_and_has_a_table_for_every_set():
    text = page.markdown(suite_of(net=("modelnet40", 0.125), chairs=("folder", 0.5)))
    assert "**No other row was: they were published by others**" in text
    assert "`encoders/mine`" in text and "SHA-256 of its files 0123456789abcdef," in text
    net, chairs = text.split("\n## ")[2:]
    assert net.startswith("net\n") and "Its clouds were mirrored" in net
    assert chairs.startswith("chairs\n") and "mirrored" not in chairs
    assert "% of 8 shapes in 4 classes. Shapes: 9 test; 10,000 points each; fing" in chairs
    assert "| chance | 25.0 | 50.0 | 75.0 | 20.0 |  |" in chairs
    assert "| student | 50.0 | 50.0 | 75.0 | 20.0 | 21.5 to 78.5 |" in chairs
    assert "| zero-shot top-1 | 50.0 |" in chairs


def test_the_config_decides_between_one_run_and_the_suite():
    assert main.command(benchmarks.get_config(), "eval", "newest") is benchmark.evaluate
    assert main.command(quickstart.get_config(), "train", "newest") is train.train_and_evaluate
    evaluate = main.command(quickstart.get_config(), "eval", "best")
    assert (evaluate.func, evaluate.keywords) == (train.evaluate, {"which": "best"})
    with pytest.raises(app.UsageError, match="trains none: pass --mode eval"):
        main.command(benchmarks.get_config(), "train", "newest")
    for config, mode in ((benchmarks, "eval"), (quickstart, "train")):
        with pytest.raises(app.UsageError, match="--step=best is for --mode eval of a run"):
            main.command(config.get_config(), mode, "best")
