# SPDX-License-Identifier: Apache-2.0
"""The build resumes, rejects contradictory options and never reuses files of other options."""

import numpy as np
import pytest
from fake_data import FakeTeacher, prepare_all, run_build

from data_prep import build, evaluation, features, lock, offline_teacher, prepare
from data_prep.teachers import lit
from mrd_jax.data import dataset_metadata, source


def test_second_run_reports_that_there_is_nothing_to_do(copied, monkeypatch, capsys):
    def times():
        files = (path for path in copied.rglob("*") if path.is_file())
        # A build writes its progress, and its name into the lock.
        of_builds = ("status.json", ".lock")
        return {path: path.stat().st_mtime_ns for path in files if path.name not in of_builds}

    before = times()

    _, teacher = run_build(copied, monkeypatch)

    printed = capsys.readouterr().out
    assert "nothing to do" in printed and "0 written, 2 current" in printed
    assert "skipped, no surface: 1" in printed
    for stage in ("shapes", "teacher", "features", "records"):
        assert f"== {stage}: " in printed
    assert teacher.pictures == teacher.texts == 0
    assert before == times()


@pytest.mark.parametrize("change", [{"points": 12}, {"views": 3}, {"image_size": 9}, {"seed": 1}])
def test_changed_option_is_rejected_before_any_work(copied, monkeypatch, change):
    monkeypatch.setattr(prepare, "prepare_shapes", None)  # calling it would fail
    (name, value), old = *change.items(), {"points": 24, "views": 2, "image_size": 8, "seed": 0}
    with pytest.raises(ValueError, match=f"--{name} {old[name]}, but --{name} {value}"):
        run_build(copied, monkeypatch, **change)


def test_overwrite_replaces_the_data_set_and_encodes_only_changed_shapes(copied, monkeypatch):
    folder, teacher = run_build(copied, monkeypatch, points=12, overwrite=True)

    assert source.open_split(folder, "train")[0]["xyz"].shape == (12, 3)
    assert dataset_metadata.read(folder)["points"] == 12
    assert teacher.pictures == 0  # pictures do not depend on the number of points
    assert not list(copied.glob(".fake*"))

    folder, teacher = run_build(copied, monkeypatch, views=3, points=12, overwrite=True)
    assert teacher.pictures > 100
    assert source.open_split(folder, "train")[0]["image_features"].shape[0] >= 3


def test_features_of_another_teacher_revision_are_not_reused(copied, monkeypatch, capsys):
    other = FakeTeacher(revision="2", factor=2.0)
    with pytest.raises(ValueError, match="another revision of the teacher.*--overwrite"):
        run_build(copied, monkeypatch, teacher=other)
    assert "2 written, 0 current, 2 stale" in capsys.readouterr().out

    old = source.open_split(copied / "fake" / "1.0.0", "train")[0]["image_features"]
    folder, _ = run_build(copied, monkeypatch, teacher=other, overwrite=True)
    new = source.open_split(folder, "train")[0]["image_features"]
    np.testing.assert_array_equal(new, 2 * old)


def test_missing_and_corrupt_feature_files_are_encoded_again(copied, monkeypatch, capsys):
    first, second = sorted((copied / "features").rglob("shard-*.npz"))
    want = [features.load_features(path) for path in (first, second)]
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])

    run_build(copied, monkeypatch)

    assert "2 written, 0 current, 1 stale" in capsys.readouterr().out
    for path, old in zip((first, second), want, strict=True):
        got = features.load_features(path)
        assert got.keys() == old.keys()
        for shape_id in old:
            for a, b in zip(got[shape_id], old[shape_id], strict=True):
                np.testing.assert_array_equal(a, b)


def test_interrupted_run_leaves_no_data_set_and_the_next_run_completes_it(tmp_path, monkeypatch):
    def fail(folder, sidecar):
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(evaluation, "write_sidecar", fail)
        with pytest.raises(OSError, match="disk full"):
            run_build(tmp_path, broken)
    assert not (tmp_path / "fake").exists()

    folder, teacher = run_build(tmp_path, monkeypatch)
    assert teacher.pictures == 0 and len(source.open_split(folder, "test")) == 10


def test_offline_teacher_is_trained_once_per_training_split(tmp_path, monkeypatch, capsys):
    trained = []

    def train(chosen, folder, *, seed, cache_dir, **kwargs):
        folder.mkdir(parents=True)
        trained.append((folder.name, [shape.id for shape in chosen], seed))
        return FakeTeacher(revision=str(seed))

    def load(folder, *, cache_dir, **kwargs):
        return FakeTeacher(revision=str(trained[-1][2]))

    monkeypatch.setattr(lit, "train_lit", train)
    monkeypatch.setattr(lit.LitTeacher, "load", load)

    folder, _ = run_build(tmp_path, monkeypatch, kind="lit")
    train_ids = [s.id for s in prepare_all().values() if s.catalogue == "train"]
    assert trained == [("lit_fake", train_ids, 0)]

    run_build(tmp_path, monkeypatch, kind="lit")
    assert len(trained) == 1 and "trained on these shapes already" in capsys.readouterr().out

    run_build(tmp_path, monkeypatch, kind="lit", seed=1, overwrite=True)
    assert [seed for _, _, seed in trained] == [0, 1]
    assert dataset_metadata.read(folder)["teacher"]["revision"] == "1"

    # Earlier versions did not train on sentences; data sets were built with their teachers.
    path = tmp_path / "teachers" / "lit_fake" / offline_teacher.TRAINED_ON
    text = path.read_text()
    assert '["name", "tags", "caption"]' in text
    path.write_text(text.replace('["name", "tags", "caption"]', '["name", "tags"]'))
    run_build(tmp_path, monkeypatch, kind="lit", seed=1)
    assert len(trained) == 2 and "of the kinds name, tags\n" in capsys.readouterr().out

    # An interrupted training leaves no such file.
    path.unlink()
    run_build(tmp_path, monkeypatch, kind="lit", seed=1)
    assert len(trained) == 3 and "it is trained again" in capsys.readouterr().out


def test_flags_set_the_options():
    flags = "--source furniture --input a --output b --teacher lit --points 9 --overwrite"
    options = build.parse_options(flags.split())
    assert (options.points, options.views, options.overwrite) == (9, 12, True)
    assert str(options.target) == "b/furniture/1.0.0"


def test_second_build_in_the_same_output_folder_is_rejected(tmp_path, monkeypatch):
    with lock.acquire(tmp_path):
        with pytest.raises(lock.BusyError, match=f"{tmp_path}: another data_prep.build"):
            run_build(tmp_path, monkeypatch)
    run_build(tmp_path, monkeypatch)
