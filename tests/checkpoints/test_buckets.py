# SPDX-License-Identifier: Apache-2.0
"""Files and folders are written atomically in a bucket, and equal the local ones."""

import os

import bucket
import jax.numpy as jnp
import numpy as np
import pytest
from fake_data import run_build
from tiny import assert_trees_equal, tiny_config
from tiny_encoder import tiny_card, tiny_variables

from mrd_jax import atomic_io, encoder, storage, transfer
from mrd_jax.checkpoints import fingerprinting, initial_weights, manager, paths
from mrd_jax.data import dataset_metadata, source
from mrd_jax.training import nonfinite

pytestmark = pytest.mark.usefixtures("fast_compile")


@pytest.fixture(scope="module")
def url():
    """An empty bucket."""
    with bucket.emulated() as url:
        yield url


@pytest.fixture
def folder(url, request):
    """A folder of its own in the bucket."""
    return storage.path(f"{url}/{request.node.name}")


@pytest.fixture
def files(tmp_path):
    """Local folder of four files, one in a subfolder and one that is larger than the others."""
    contents = {"a": b"first", "marker.json": b"{}", "sub/b": b"", "sub/large": os.urandom(2**19)}
    for name, content in contents.items():
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_bytes(content)
    return tmp_path / "files"


def test_appended_lines_are_all_kept(folder):
    for line in ("one\n", "two\n", "three\n"):
        storage.append_text(folder / "lines.txt", line)
    assert (folder / "lines.txt").read_text() == "one\ntwo\nthree\n"


def test_another_process_sees_a_file_at_once(folder):
    assert not (folder / "a").exists() and not folder.exists()
    storage.file_system().put_file(__file__, str(folder / "a"))
    assert (folder / "a").exists() and list(folder.iterdir()) == [folder / "a"]


def test_an_interrupted_write_changes_nothing(folder):
    atomic_io.write_text(folder / "a.txt", "before")
    with pytest.raises(KeyError):
        with atomic_io.replacing(folder / "a.txt") as temporary:
            temporary.write_text("after")
            raise KeyError
    assert (folder / "a.txt").read_text() == "before"


def test_a_folder_is_published_with_its_marker_last(folder, files, monkeypatch):
    order, put_file = [], storage.file_system().put_file

    def note(source, target):
        order.append(target.removeprefix(f"{folder}/"))
        return put_file(source, target)

    monkeypatch.setattr(storage.file_system(), "put_file", note)
    assert transfer.publish(files, folder, last="marker.json") == 4
    assert sorted(order[:3]) == ["a", "sub/b", "sub/large"] and order[3:] == ["marker.json"]
    assert list(storage.files(folder)) == ["a", "marker.json", "sub/b", "sub/large"]
    assert transfer.publish(files, folder, last="marker.json") == 0


def test_an_interrupted_upload_has_no_marker_and_continues(folder, files, monkeypatch):
    put_file = storage.file_system().put_file

    def fail(source, target):
        if target.endswith("large"):
            raise OSError("connection lost")
        return put_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(storage.file_system(), "put_file", fail)
        with pytest.raises(OSError, match="connection lost"):
            transfer.publish(files, folder, last="marker.json")
    assert not (folder / "marker.json").exists()
    assert 2 <= transfer.publish(files, folder, last="marker.json") <= 4
    assert (folder / "sub/large").read_bytes() == (files / "sub/large").read_bytes()


def test_a_changed_folder_loses_its_marker_before_its_files(folder, files, monkeypatch):
    transfer.publish(files, folder, last="marker.json")
    (files / "a").write_bytes(b"other")  # of the same size

    def fail(source, target):
        assert not (folder / "marker.json").exists()
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(storage.file_system(), "put_file", fail)
        with pytest.raises(OSError, match="connection lost"):
            transfer.publish(files, folder, last="marker.json")
    assert transfer.publish(files, folder, last="marker.json") == 2
    assert (folder / "a").read_bytes() == b"other"


def test_an_upload_that_arrives_corrupt_is_an_error(folder, files, monkeypatch):
    def corrupt(source, target):
        storage.path(target).write_bytes(b"\0" * os.path.getsize(source))

    monkeypatch.setattr(storage.file_system(), "put_file", corrupt)
    with pytest.raises(transfer.TransferError, match="differ from"):
        transfer.publish(files, folder)


def test_a_local_copy_is_downloaded_once_and_repaired(folder, files, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    transfer.publish(files, folder)
    copy = transfer.local_copy(folder)
    assert (copy / "sub/large").read_bytes() == (files / "sub/large").read_bytes()
    stamp = (copy / "sub/large").stat().st_mtime_ns
    (copy / "a").write_bytes(b"xxxxx")  # of the same size
    assert transfer.local_copy(folder) == copy
    assert (copy / "a").read_bytes() == b"first"
    assert (copy / "sub/large").stat().st_mtime_ns == stamp
    monkeypatch.setattr(transfer, "free_space", lambda folder: 10)
    (copy / "sub/large").unlink()
    with pytest.raises(transfer.TransferError, match="GB free; set XDG_CACHE_HOME"):
        transfer.local_copy(folder)


def test_an_encoder_is_saved_and_loaded_with_the_same_fingerprint(folder, tmp_path):
    for place in (folder / "encoder", tmp_path / "encoder"):
        encoder.save(place, variables=tiny_variables(), card=tiny_card())
        assert_trees_equal(encoder.load(place).variables, tiny_variables())
    with pytest.raises(FileExistsError, match="choose another folder"):
        encoder.save(folder / "encoder", variables=tiny_variables(), card=tiny_card())
    copy = storage.path(tmp_path / "copy")
    storage.file_system().get(str(folder / "encoder"), str(copy), recursive=True)
    found = [fingerprinting.checkpoint_fingerprint(one) for one in (folder / "encoder", copy)]
    assert found[0] == found[1]


def test_an_encoder_without_its_card_does_not_exist(folder):
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    (folder / paths.CARD_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="holds no encoder"):
        encoder.load(folder)


def test_partial_weights_are_saved_and_loaded(folder):
    initial_weights.save(folder / "part.npz", {"params": {"w": np.arange(3.0)}})
    assert_trees_equal(initial_weights.load(folder / "part.npz"), {"params": {"w": np.arange(3.0)}})


def saved(folder, steps):
    config = tiny_config(checkpoints_kept=3)
    checkpoints = manager.CheckpointManager(folder, config=config, fingerprint="data")
    for step in steps:
        checkpoints.save({"w": jnp.arange(5.0) * step}, step=step)
    checkpoints._manager.wait_until_finished()
    return checkpoints


def test_a_checkpoint_without_its_commit_marker_does_not_exist(folder):
    saved(folder, (1, 2)).close()
    step = folder / paths.FOLDER / "2"
    (step / "commit_success.txt").unlink()
    assert [one.name for one in paths.steps(folder)] == ["1"] and not paths.is_step(step)
    reopened = saved(folder, ())
    assert reopened.latest_step() == 1
    assert_trees_equal(reopened.restore({"w": jnp.zeros(5)}), {"w": jnp.arange(5.0)})
    reopened.close()
    assert not step.exists()  # removed as the remains of an interrupted save


def test_a_corrupt_checkpoint_is_moved_away(folder):
    checkpoints = saved(folder, (1, 2))
    file = folder / paths.FOLDER / "2" / paths.MANIFEST / "metadata"
    file.write_text(file.read_text().replace('"w"', '"v"'))
    assert_trees_equal(checkpoints.restore({"w": jnp.zeros(5)}), {"w": jnp.arange(5.0)})
    checkpoints.close()
    assert [path.name for path in (folder / paths.CORRUPT).iterdir()] == ["2"]
    assert [path.name for path in paths.steps(folder)] == ["1"]


def test_skipped_updates_of_several_starts_are_all_recorded(folder):
    for step in (3, 4):
        updates = nonfinite.NonFiniteUpdates(folder, limit=0, names=lambda index: ["x"])
        updates.add(step, {"skipped": jnp.float32(1), "loss": jnp.float32(np.nan)}, np.array([0]))
        updates.check()
    lines = (folder / "skipped.0.jsonl").read_text().splitlines()
    assert [line[:10] for line in lines] == ['{"step": 3', '{"step": 4']


def test_the_same_build_continues_an_interrupted_upload(folder, tmp_path, monkeypatch, capsys):
    run_build(tmp_path, monkeypatch, upload=folder)
    written = folder / "fake/1.0.0"
    shard = next(name for name in storage.files(written) if "array_record" in name)
    for name in ("dataset_info.json", shard):
        (written / name).unlink()
    with pytest.raises(FileNotFoundError, match="no data set in"):
        dataset_metadata.read(written)
    capsys.readouterr()
    run_build(tmp_path, monkeypatch, upload=folder)
    assert f"2 of {len([*storage.files(written)])} files uploaded" in capsys.readouterr().out
    assert len(source.open_split(written, "train")) == 29


def test_a_data_set_is_replaced_only_on_request_and_without_remains(folder, tmp_path, monkeypatch):
    upload = storage.path(folder)
    run_build(tmp_path / "one", monkeypatch, upload=upload)
    with pytest.raises(ValueError, match=f"{folder}/fake/1.0.0 was built with --seed 0"):
        run_build(tmp_path / "two", monkeypatch, upload=upload, seed=1)
    for name in ("evaluation/old.json", "neighbours/train.npz"):
        (folder / "fake/1.0.0" / name).write_text("{}")
    run_build(tmp_path / "two", monkeypatch, upload=upload, seed=1, overwrite=True)
    assert dataset_metadata.read(folder / "fake/1.0.0")["build"]["seed"] == 1
    local = storage.files(storage.path(tmp_path / "two/fake/1.0.0"))
    assert {*storage.files(folder / "fake/1.0.0")} == {*local, "neighbours/train.npz"}
