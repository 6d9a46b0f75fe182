# SPDX-License-Identifier: Apache-2.0
"""Parts of the benchmark without an encoder: fit, fingerprints, published rows, page, command."""

import hashlib

import numpy as np
import pytest
from fake_data import DIM, POINTS
from tiny_encoder import tiny_card

from configs import benchmarks, quickstart
from data_prep.geometry import clouds
from mrd_jax import main
from mrd_jax.checkpoints import fingerprinting, paths, run_identity
from mrd_jax.data import dataset_metadata
from mrd_jax.evaluation import benchmark, results
from mrd_jax.evaluation.benchmark import measure, page, published, test_sets
from mrd_jax.training import train


def card(**changes):
    student = tiny_card().student | {"out_dim": DIM}
    return tiny_card(student=student, teacher_dim=DIM, points=POINTS // 2, **changes)


def test_fitting_data_set_has_no_misfit(made):
    assert test_sets.misfit(dataset_metadata.read(made), card=card(), windows=2) == ""


@pytest.mark.parametrize(
    "metadata, windows, reason",
    [
        ({}, 3, "its point clouds have 24 points, but 3 windows of 12 need 36"),
        ({"counts": {"train": 9, "classes": 2}}, 1, "it has no split 'test', only ['train']"),
        ({"counts": {"test": 9, "classes": 0}}, 1, "it has no classes"),
        ({"from_y_up": None}, 1, "its metadata has no from_y_up, the conversion from y up to z up"),
        ({"normalisation": "cube"}, 1, "its normalisation is 'cube' and the encoder's 'unit_"),
        ({"up_axis": "y"}, 1, "its up axis is 'y' and the encoder's 'z'"),
        ({"teacher": {"name": "a/b", "dim": DIM}}, 1, "its teacher is 'a/b' and the encoder's 'f"),
        (
            {"teacher": {"name": "fake/teacher", "dim": 7}},
            1,
            "its teacher feature dimension is 7 and the encoder's",
        ),
    ],
)
def test_misfit_names_the_reason(made, metadata, windows, reason):
    metadata = dataset_metadata.read(made) | metadata
    metadata = {name: value for name, value in metadata.items() if value is not None}
    assert test_sets.misfit(metadata, card=card(), windows=windows).startswith(reason)


def test_two_versions_of_a_set_raise(tmp_path):
    for version in ("1.0.0", "2.0.0"):
        (tmp_path / "lvis" / version).mkdir(parents=True)
        (tmp_path / "lvis" / version / "dataset_info.json").write_text("{}")
    config = benchmarks.get_config()
    config.data = str(tmp_path)
    with pytest.raises(ValueError, match=r"lvis has versions \['1.0.0', '2.0.0'\]; keep only one"):
        test_sets.find(config, card=card())


@pytest.mark.parametrize("own, other", [("rotate", "swap"), ("swap", "rotate")])
def test_mirrored_clouds_equal_those_prepared_with_the_other_convention(own, other):
    """The clouds are bit-identical to those of a set that was prepared for the encoder."""
    raw = np.random.default_rng(0).normal(size=(32, 3)) + [1, 2, 3]

    def prepared(from_y_up):
        conventions = clouds.Conventions(24, "z", from_y_up, "unit_sphere", 0.4)
        return clouds.prepare_cloud(raw, conventions=conventions, up="y").xyz.astype(np.float16)

    record = {"xyz": prepared(own), "rgb": np.zeros((24, 3), np.uint8)}
    ((got, _),) = measure._clouds([record], windows=1, points=24, mirrored=True)
    np.testing.assert_array_equal(got, prepared(other))
    assert np.abs(got - record["xyz"]).max() > 0.1


def test_folder_checksum_matches_sha256sum(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(b"one")
    (tmp_path / "a").write_bytes(b"two")
    lines = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        for name, content in (("a", b"two"), ("b/x", b"one"))
    )
    want = hashlib.sha256(lines.encode()).hexdigest()
    assert fingerprinting.checkpoint_fingerprint(tmp_path) == want


def test_fingerprint_of_a_run_is_that_of_its_newest_checkpoint(tmp_path):
    (tmp_path / run_identity.RUN_FILE).write_text("{}")
    for step in ("9", "10"):
        (tmp_path / paths.FOLDER / step).mkdir(parents=True)
        (tmp_path / paths.FOLDER / step / "state").write_text(step)
    before = fingerprinting.checkpoint_fingerprint(tmp_path)
    (tmp_path / paths.FOLDER / "9" / "state").write_text("other")
    (tmp_path / "metrics.jsonl").write_text("{}")
    assert fingerprinting.checkpoint_fingerprint(tmp_path) == before
    (tmp_path / paths.FOLDER / "10" / "state").write_text("other")
    assert fingerprinting.checkpoint_fingerprint(tmp_path) != before


def test_config_fingerprint_depends_on_all_fields_except_places(tmp_path):
    def fingerprint(**fields):
        config = benchmarks.get_config()
        config.checkpoint = str(tmp_path)
        config.update(fields)
        return fingerprinting.benchmark_fingerprints(config)["hashes"]["config"]

    assert fingerprint(data="elsewhere", sets=("lvis",)) == fingerprint()
    for name, value in benchmarks.get_config().items():
        if name not in fingerprinting.PLACES:
            other = not value if isinstance(value, bool) else value + 1
            assert fingerprint(**{name: other}) != fingerprint(), name


def rows_of(method):
    return [row for row in published.rows() if row.method == method]


def test_published_rows_match_their_sources():
    """Three rows are compared with values typed from their sources, the others checked for form."""
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


def results_of(**sources):
    """Returns the content of results.json for test sets given as name=(source, student's top-1)."""

    def figures(name, top1):
        metrics = {"top1": top1, "top3": 0.5, "top5": 0.75, "mean_per_class": 0.2}
        metrics |= {"count": 8, "classes": 4}
        correct = np.arange(8) < 8 * top1
        rows = [
            results.Result(results.CHANCE, "", metrics | {"top1": 0.25}),
            results.Result(results.STUDENT, "", metrics, correct),
        ]
        return {
            "source": name, "data": "abc", "points": 10_000, "mirrored": name == "modelnet40",
            "counts": {"test": 9, "labelled": 8, "classes": 4},
            "results": [row.as_dict() for row in rows],
        }  # fmt: skip

    return {
        "config": {"checkpoint": "encoders/mine", "windows": 1},
        "seed": 0,
        "hashes": dict.fromkeys(("config", "checkpoint", "code"), "0123456789abcdef0"),
        "versions": {"jax": "1.2"},
        "encoder": card().as_dict(),
        "sets": {name: figures(*arguments) for name, arguments in sources.items()},
        "skipped": {},
    }


def test_published_table_starts_with_the_own_row_and_marks_missing_values_with_a_dash():
    content = results_of(net=("modelnet40", 0.125), chairs=("folder", 1))
    lines = page.published_table(content).splitlines()
    assert lines[0].startswith("| encoder | training set | Objaverse-LVIS | ModelNet40 | ScanObje")
    assert lines[2] == ("| **encoders/mine** |  | - | 12.5 / 50.0 / 75.0 | - | measured here |")
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | --- |"
    assert "| ViT-Lens L | S | - | 70.6 / - / 94.4 | - | TencentARC/ViT-Lens MODEL_ZOO |" in lines
    assert len(lines) == 3 + len(published.rows())
    assert (
        "| OpenShape PointBERT | E | 46.8 / 69.1 / 77.0 | 84.4 / 96.5 / 98.0 | 52.2 / 79.7 / 88.7 "
        "| OpenShape paper (arXiv 2305.10764), Table 2 |"
    ) in lines
    training_sets = [line.split(" | ")[1] for line in lines[3:]]
    assert training_sets == sorted(training_sets, key="-SNE".index)


def test_variant_of_scanobjectnn_is_not_in_the_published_table():
    own = page.published_table(results_of(net=("scanobjectnn_pb_t25", 0.5))).splitlines()[2]
    assert "50.0" not in own


def test_page_marks_published_rows_and_has_a_section_per_test_set():
    text = page.markdown(results_of(net=("modelnet40", 0.125), chairs=("folder", 0.5)))
    assert "**No other row was: they were published by others**" in text
    assert "`encoders/mine`" in text and "SHA-256 of its files 0123456789abcdef," in text
    net, chairs = text.split("\n## ")[2:]
    assert net.startswith("net\n") and "Its point clouds were mirrored" in net
    assert chairs.startswith("chairs\n") and "mirrored" not in chairs
    assert "% of 8 shapes in 4 classes. Intervals: Wilson. Shapes: 9 test; 10,000 points" in chairs
    assert "| chance | 25.0 | 50.0 | 75.0 | 20.0 |  |" in chairs
    assert "| student | 50.0 | 50.0 | 75.0 | 20.0 | 21.5 to 78.5 |" in chairs
    assert "| zero-shot top-1 | 50.0 |" in chairs


def test_config_selects_evaluation_of_a_run_or_the_benchmark():
    assert main.choose(benchmarks.get_config(), "eval", "newest") is benchmark.evaluate
    assert main.choose(quickstart.get_config(), "train", "newest") is train.train_and_evaluate
    evaluate = main.choose(quickstart.get_config(), "eval", "best")
    assert (evaluate.func, evaluate.keywords) == (train.evaluate, {"which": "best"})
    with pytest.raises(ValueError, match="only evaluates: pass --mode eval"):
        main.choose(benchmarks.get_config(), "train", "newest")
    for config, mode in ((benchmarks, "eval"), (quickstart, "train")):
        with pytest.raises(ValueError, match="--step is best, which is for --mode eval of a run"):
            main.choose(config.get_config(), mode, "best")
