# SPDX-License-Identifier: Apache-2.0
"""Features of shards: fingerprints, dtype, order, reading ahead, and memory of the stages."""

import dataclasses
import io
import json
import pathlib
import threading
import tracemalloc
import types

import numpy as np
import PIL.Image
import pytest
from fake_data import DIM, POINTS, FakeTeacher, prepare_all, run_build

from data_prep import (
    build,
    catalogue,
    evaluation,
    features,
    progress,
    record_builder,
    records,
    shapes,
    shards,
    teacher_stage,
)


def write_shards(folder, count, *, per_shard=4, image=None):
    """Writes shards of copies of the fake shapes, with unique ids; returns their paths."""
    known = list(prepare_all().values())[:per_shard]
    images = {} if image is None else {"images": (image,), "image_kinds": ("render",)}
    paths = []
    for number in range(count):
        copies = [
            dataclasses.replace(shape, id=f"{shape.id}/{number}", name=f"n{number}", **images)
            for shape in known
        ]
        paths.append(shards.path_of(folder, number))
        shapes.save_shard(paths[-1], copies)
    return paths


def ids_of(paths):
    return {entry.shape.id for path in paths for entry in shapes.load_index(path)}


def test_an_index_tells_the_same_as_the_whole_shard(tmp_path):
    (path,) = write_shards(tmp_path, 1)
    whole = shapes.load_shard(path)
    for entry, shape in zip(shapes.load_index(path), whole, strict=True):
        assert entry.fingerprint == shapes.fingerprint(shape)
        assert len(entry.image_hashes) == len(shape.images)
        emptied = dict.fromkeys(("xyz", "rgb"), entry.shape.xyz) | {"images": (), "released": None}
        assert dataclasses.replace(entry.shape, **emptied) == dataclasses.replace(shape, **emptied)
        assert (entry.shape.xyz.shape, entry.shape.rgb.shape) == ((0, 3), (0, 3))


def test_shards_of_earlier_versions_have_the_same_index(tmp_path):
    (path,) = write_shards(tmp_path, 1)
    expected = shapes.load_index(path)
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads(arrays["meta"].tobytes())
    for record in meta["shapes"]:
        del record["fingerprint"], record["image_hashes"]
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(path, **arrays)
    for old, new in zip(shapes.load_index(path), expected, strict=True):
        assert (old.fingerprint, old.image_hashes) == (new.fingerprint, new.image_hashes)
        assert old.shape.id == new.shape.id and old.shape.captions == new.shape.captions


def test_catalogue_and_up_to_date_features_read_no_arrays(tmp_path, monkeypatch):
    paths = write_shards(tmp_path / "shapes", 2)
    ids = ids_of(paths)
    teacher = FakeTeacher()
    features.encode_shards(paths, tmp_path / "features", teacher, ids=ids)
    monkeypatch.setattr(shapes, "load_shard", None)  # calling it fails
    assert set(catalogue.read_catalogue(paths).fingerprints) == ids
    counts = features.encode_shards(paths, tmp_path / "features", teacher, ids=ids)
    assert (counts["current"], counts["written"]) == (2, 0)


def test_features_of_another_dtype_are_encoded_again(tmp_path):
    paths = write_shards(tmp_path / "shapes", 1)
    options = {"ids": ids_of(paths), "teacher": FakeTeacher(), "output_dir": tmp_path / "features"}
    assert features.find_dtype(tmp_path / "features") is None
    assert features.encode_shards(paths, **options, dtype="bfloat16")["written"] == 1
    assert features.find_dtype(tmp_path / "features") == "bfloat16"
    assert features.encode_shards(paths, **options, dtype="bfloat16")["current"] == 1
    assert features.encode_shards(paths, **options, dtype="float32")["stale"] == 1
    assert features.find_dtype(tmp_path / "features") == "float32"


def test_a_shard_has_the_same_bytes_alone_and_among_others(tmp_path):
    paths = write_shards(tmp_path / "shapes", 3)
    ids = ids_of(paths)
    features.encode_shards(paths, tmp_path / "all", FakeTeacher(), ids=ids)
    for path in paths:
        target = shards.beside(path, tmp_path / "all")
        features.encode_shard(path, tmp_path / "one.npz", FakeTeacher(), ids=ids)
        assert (tmp_path / "one.npz").read_bytes() == target.read_bytes()


def test_the_next_shard_is_read_while_the_devices_compute(tmp_path):
    """Each call waits until another one has begun, so that one at a time would never end."""
    both = threading.Barrier(2, timeout=20)

    class Waiting(FakeTeacher):
        def encode_images(self, images, *, progress=False):
            both.wait()
            return super().encode_images(images)

    paths = write_shards(tmp_path / "shapes", 2)
    counts = features.encode_shards(paths, tmp_path / "f", Waiting(), ids=ids_of(paths))
    assert counts["written"] == 2


def test_progress_counts_images_and_those_of_earlier_runs(tmp_path):
    paths = write_shards(tmp_path / "shapes", 3)
    options = {"ids": ids_of(paths), "teacher": FakeTeacher(), "output_dir": tmp_path / "f"}
    features.encode_shards(paths[:1], **options)
    seen: list[progress.Snapshot] = []
    features.encode_shards(paths, **options, listener=seen.append)
    images = [len(e.image_hashes) for path in paths for e in shapes.load_index(path)]
    last = seen[-1]
    assert (last.stage, last.unit, last.finished) == ("features", "image", True)
    assert last.total == last.done == sum(images) and last.reused == sum(images) // 3


def test_features_lie_in_the_subfolders_of_their_shards(tmp_path):
    paths = write_shards(tmp_path / "shapes", 1)
    folder = tmp_path / "features"
    features.encode_shards(paths, folder, FakeTeacher(), ids=ids_of(paths))
    (path,) = folder.rglob("*.npz")
    assert path.relative_to(folder) == paths[0].relative_to(tmp_path / "shapes")
    path.rename(folder / path.name)  # as in earlier versions
    counts = features.encode_shards(paths, folder, FakeTeacher(), ids=ids_of(paths))
    assert counts["current"] == 1 and path.exists()


def test_automatic_dtype_is_that_of_existing_features(tmp_path, monkeypatch):
    first, _ = run_build(tmp_path, monkeypatch, dtype="bfloat16")
    _, teacher = run_build(tmp_path, monkeypatch)
    assert teacher.pictures == 0
    run_build(tmp_path, monkeypatch, overwrite=True, seed=1)
    info = json.loads((first / "metadata.json").read_text())
    assert info["build"]["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("backend", "teacher", "dtype"),
    [
        ("cpu", "owner/clip", "float32"),
        ("tpu", "owner/clip", "bfloat16"),
        ("gpu", "lit", "float32"),
        ("gpu", "released", "float32"),
    ],
)
def test_automatic_dtype_depends_on_devices_and_teacher(monkeypatch, backend, teacher, dtype):
    monkeypatch.setattr("jax.default_backend", lambda: backend)
    options = types.SimpleNamespace(
        dtype="auto",
        teacher=teacher,
        target=types.SimpleNamespace(exists=lambda: False),
        output=pathlib.Path("/nowhere"),
        source="fake",
        execution=types.SimpleNamespace(executor="local"),
    )
    assert teacher_stage.find_dtype(options) == dtype


def test_batch_size_is_a_number_or_auto(capsys):
    flags = "--source folder --input a --output b --teacher c --batch_size".split()
    assert build.parse_options([*flags, "auto"]).batch_size is None
    assert build.parse_options([*flags, "7"]).batch_size == 7
    with pytest.raises(SystemExit):
        build.parse_options([*flags, "0"])
    assert "expected auto or an integer of at least 1, found '0'" in capsys.readouterr().err


def peak(function):
    """Returns the peak of traced memory while a function runs, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_features_and_records_need_no_more_memory_for_four_times_as_many_shapes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(record_builder, "SHARDS_PER_FILE", 2)
    image = fake_image(120_000)
    peaks = []
    for count in (4, 16):
        folder = tmp_path / str(count)
        paths = write_shards(folder / "shapes", count, image=image)
        ids = ids_of(paths)

        def encode(paths=paths, folder=folder, ids=ids):
            features.encode_shards(paths, folder / "features", FlatTeacher(), ids=ids)

        def write(paths=paths, folder=folder, ids=ids):
            info = FakeTeacher().info
            plan = record_builder.Plan(
                name="fake",
                shards=[
                    records.Shard(p, shards.beside(p, folder / "features"), ids_of([p]))
                    for p in paths
                ],
                splits={"train": sorted(ids)},
                classes=[],
                points=POINTS,
                dim=DIM,
                metadata={"teacher": dataclasses.asdict(info)},
            )
            sidecar = evaluation.Sidecar([], np.zeros((0, DIM), np.float32), [])
            record_builder.write_records(plan, folder, sidecar=sidecar)

        peaks.append((peak(encode), peak(write)))
    size = 4 * len(image)  # of a shard
    for few, many in zip(*peaks, strict=True):
        assert few > size  # the pictures of a shard are traced
        # The timing of the two threads accounts for less than two shards; twelve were added.
        assert many < few + 2 * size, peaks


class FlatTeacher(FakeTeacher):
    """Teacher that does not decode its images."""

    def encode_images(self, images, *, progress=False):
        return np.ones((len(images), DIM), np.float32)


def fake_image(size):
    """Returns a PNG file of about `size` bytes."""
    side = int((size / 3) ** 0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
