# SPDX-License-Identifier: Apache-2.0
"""The command that builds neighbour indexes, and the index file."""

import dataclasses
import types

import numpy as np
import pytest
from fake_data import DIM
from tiny import tiny_config

from mrd_jax import storage
from mrd_jax.data import dataset_metadata, source
from mrd_jax.data.hard_negatives import neighbour_index
from mrd_jax.tools import neighbours as tool

COUNT = 5


@pytest.fixture
def run(made, tmp_path, capsys):
    """Function that runs the command on the fake data set.

    It returns (status, index, stdout, stderr).
    """

    def call(*arguments, output=tmp_path / "out" / "N.npz"):
        options = ["--data", made, "--output", output, "--count", COUNT, *arguments]
        status = tool.main([str(x) for x in options])
        found = neighbour_index.read(output) if output.exists() else None
        return status, found, *capsys.readouterr()

    return call


def slow_neighbours(records, feature):
    """Neighbours by quantised cosine, without records that have the same feature."""
    rows = []
    for record in records:
        kinds = ["image_features", "text_features"]
        first, second = kinds if feature == "image" else reversed(kinds)
        features = np.float64(record[first] if len(record[first]) else record[second])
        mean = np.mean([row / np.sqrt(row @ row) for row in features], axis=0)
        rows.append(np.rint(4_000 * mean / np.sqrt(mean @ mean)))
    cosines = np.array([[np.inf if all(a == b) else -(a @ b) for b in rows] for a in rows])
    order = np.argsort(cosines, axis=1, kind="stable")[:, :COUNT]
    return np.where(np.isinf(np.take_along_axis(cosines, order, axis=1)), -1, order)


@pytest.mark.parametrize("feature", ["image", "text"])
def test_the_command_matches_a_loop_over_the_records(made, run, feature):
    """One record has no image feature, another one no text feature."""
    records = list(source.open_split(made, "train"))
    status, found, out, _ = run("--feature", feature)
    assert status == 0
    np.testing.assert_array_equal(found.indices, slow_neighbours(records, feature))
    assert (found.split, found.feature) == ("train", feature)
    assert found.fingerprint == dataset_metadata.fingerprint(dataset_metadata.read(made))
    names = [records[index]["name"] for index in found.indices[0]]
    assert out.startswith(f"{records[0]['name']}: {', '.join(names)}\n")
    assert f"{COUNT} neighbours of {len(records)} records by {feature} in " in out


def test_shapes_are_compared_by_an_encoder(made, run, tmp_path, monkeypatch):
    """The encoder takes fewer points than the records have."""
    arguments = {}

    class Encoder:
        card = types.SimpleNamespace(points=7)

        def embed(self, clouds):
            rows = np.array([[*xyz.sum(axis=0), *rgb.sum(axis=0)] for xyz, rgb in clouds])
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def load(path, **expected):
        arguments.update(expected, path=path)
        return Encoder()

    monkeypatch.setattr("mrd_jax.encoder.load", load)
    monkeypatch.setattr(tool, "CHUNK", 10)  # the last chunk is not full
    _, found, _, _ = run("--feature", "shape", "--checkpoint", tmp_path)
    conventions = {"up_axis": "z", "from_y_up": "rotate", "normalisation": "unit_sphere"}
    assert arguments == {"path": tmp_path, **conventions}
    rows = [
        np.concatenate(
            [record["xyz"][:7].sum(axis=0, dtype=np.float32), record["rgb"][:7].sum(0) / 255]
        )
        for record in source.open_split(made, "train")
    ]
    rows = np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T - 9 * np.eye(len(rows))
    got = np.take_along_axis(cosines, found.indices.astype(int), axis=1)
    np.testing.assert_allclose(got, -np.sort(-cosines)[:, :COUNT], atol=1e-3)
    assert found.feature == "shape"


def test_the_index_is_written_below_the_folder_of_the_data_set(copied, capsys):
    folder = copied / "fake" / "1.0.0"
    assert tool.main(["--data", str(folder), "--count", "3", "--split", "test"]) == 0
    written = folder / "neighbours" / "test.npz"
    assert neighbour_index.read(written).indices.shape[1] == 3
    assert str(written) in capsys.readouterr().out
    assert [path.name for path in written.parent.iterdir()] == ["test.npz"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--count", 29], "--count is 29, but split 'train' has 29 records"),
        (["--split", "trian"], "no split 'trian'"),
        (["--data", "/nowhere"], "no data set in '/nowhere'"),
    ],
)
def test_unusable_arguments_are_rejected(run, arguments, message):
    status, found, _, error = run(*arguments)
    assert status == 2 and found is None and message in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--feature", "shape"], "--checkpoint belongs to --feature shape"),
        (["--checkpoint", "x"], "--checkpoint belongs to --feature shape"),
        (["--count", 0], "--count is 0"),
    ],
)
def test_contradictory_options_are_rejected(run, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err


def test_a_record_whose_features_cancel_out_is_named(made, monkeypatch):
    records = source.open_split(made, "train", cache=True)
    fields = ("id", "image_features", "text_features")
    cancel = records.read(3, fields) | {"image_features": np.array([[1] * DIM, [-1] * DIM])}
    read = records.read
    monkeypatch.setattr(
        records, "read", lambda index, names: cancel if index == 3 else read(index, names)
    )
    with pytest.raises(ValueError, match=f"record 3, {records[3]['id']!r}: .* cancel"):
        tool.teacher_features(records, feature="image", dim=DIM)


def some(**changes):
    indices = np.array([[1, 2], [0, 2], [1, -1]], np.int32)
    found = neighbour_index.NeighbourIndex(
        indices, fingerprint="data-1", split="train", feature="image"
    )
    return dataclasses.replace(found, **changes)


def open_for(path, *, records=3, **fields):
    fields = {"batch_size": 3, "data__hard_negatives": 1, "data__neighbours": 2} | fields
    config = tiny_config(data__neighbours_file=str(path), **fields)
    return neighbour_index.open_for(config, fingerprint="data-1", records=records)


def test_open_for_returns_as_many_neighbours_as_the_config_asks_for(tmp_path):
    neighbour_index.write(tmp_path / "N.npz", some())
    np.testing.assert_array_equal(open_for(tmp_path / "N.npz").indices, some().indices)
    fewer = open_for(tmp_path / "N.npz", data__neighbours=1)
    np.testing.assert_array_equal(fewer.indices, [[1], [0], [1]])
    assert open_for(tmp_path / "N.npz", data__hard_negatives=0) is None


def test_the_fingerprint_depends_on_the_neighbours_that_are_used_not_on_the_file(tmp_path):
    index, other = some(), some(indices=np.array([[1, 2], [0, 2], [1, 0]], np.int32))
    assert (
        index.content_fingerprint()
        == some(feature="text").content_fingerprint()
        != other.content_fingerprint()
    )
    neighbour_index.write(
        tmp_path / "N.npz", some(indices=np.array([[1, 2], [0, 1], [1, 0]], np.int32))
    )
    neighbour_index.write(tmp_path / "M.npz", some())
    fingerprints = {
        open_for(tmp_path / name, data__neighbours=1).content_fingerprint()
        for name in ("N.npz", "M.npz")
    }
    assert len(fingerprints) == 1  # the files agree in the first neighbours


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"fingerprint": "data-0"}, "its fingerprint is 'data-0', that of .* is 'data-1'; run"),
        ({"split": "test"}, "its split is 'test', that of config.data is 'train'"),
        ({"indices": np.array([[1, 0]] * 4, np.int32)}, "does not fit the 3 records .* 4 rows"),
        ({"indices": np.array([[1, 3]] * 3, np.int32)}, "indices from 1 to 3"),
        ({"indices": np.array([[1], [0], [1]], np.int32)}, "has 1 neighbours .* --count 2"),
        ({"indices": np.zeros((3, 2))}, r"float64 \[3, 2\]; expected int32"),
    ],
)
def test_errors_about_unsuitable_indexes_name_the_command(tmp_path, changes, message):
    neighbour_index.write(tmp_path / "N.npz", some(**changes))
    with pytest.raises(ValueError, match=message) as error:
        open_for(tmp_path / "N.npz")
    assert "run python -m mrd_jax.tools.neighbours" in str(error.value)


def test_errors_about_missing_and_corrupt_indexes_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; run python -m"):
        open_for(tmp_path / "N.npz")
    neighbour_index.write(tmp_path / "N.npz", some())
    intact = (tmp_path / "N.npz").read_bytes()
    np.savez(tmp_path / "other.npz", indices=np.zeros(3))
    for content in (intact[:-30], b"", b"no zip", (tmp_path / "other.npz").read_bytes()):
        (tmp_path / "N.npz").write_bytes(content)
        with pytest.raises(ValueError, match="corrupt or not a neighbour index"):
            open_for(tmp_path / "N.npz")


def test_an_index_is_written_atomically(tmp_path, monkeypatch):
    neighbour_index.write(tmp_path / "N.npz", some())

    def raise_disk_full(*arguments):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(type(storage.path(tmp_path)), "replace", raise_disk_full)
        neighbour_index.write(tmp_path / "N.npz", some(split="test"))
    assert neighbour_index.read(tmp_path / "N.npz").split == "train"
    assert [path.name for path in tmp_path.iterdir()] == ["N.npz"]
