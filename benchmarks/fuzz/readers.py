# SPDX-License-Identifier: Apache-2.0
"""Readers of untrusted files: documented exceptions, and checks of the results."""

import dataclasses
import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from benchmarks.fuzz import valid, valid_models
from configs import base
from data_prep import records, shapes
from data_prep.foreign import archives, limits, safe_pickle
from data_prep.geometry import clouds, formats, meshes, render, viewpoints
from data_prep.geometry.assets import Assets
from data_prep.geometry.scene import MeshError
from data_prep.sources import benchmark, furniture, modelnet40, properties, tables
from data_prep.teachers.lit.frozen import torch_file
from mrd_jax import models
from mrd_jax.checkpoints import manifest, model_card, run_identity
from mrd_jax.convert import files
from mrd_jax.data import corrupt_records, example, loader, numpy_files, source

CONVENTIONS = clouds.Conventions(
    points=32, up_axis="z", from_y_up="rotate", normalisation="unit_sphere", colour_fill=0.4
)


@dataclasses.dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
      valid: function that returns valid files.
      read: function that reads a file and checks the result.
      refusals: documented exceptions.
      suffix: suffix of the file.
      share: share of the inputs that it gets; less for readers that start a process for each.
    """

    valid: Callable[[], list[valid.Valid]]
    read: Callable[[Path], object]
    refusals: tuple[type[Exception], ...]
    suffix: str = ""
    share: float = 1


def _cloud(path: Path) -> None:
    """Reads a file like `clouds.read_cloud` does, but once, and renders meshes."""
    content = clouds.read_content(path, fill=CONVENTIONS.colour_fill)
    xyz, rgb = clouds.sample_content(content, points=CONVENTIONS.points)
    up = clouds.vertical_axis(path, content, stated=None).up
    cloud = clouds.prepare_cloud(xyz, rgb, conventions=CONVENTIONS, up=up)
    _check_cloud(cloud.xyz, cloud.rgb, largest=1, points=CONVENTIONS.points)
    assert all(len(note) < 500 for note in content.notes) and len(content.notes) < 1000
    if content.surface is not None:
        render.render_views(content.surface, cameras=viewpoints.angles(1), size=16)


def _check_cloud(xyz: np.ndarray, rgb: np.ndarray, *, largest: int, points: int) -> None:
    assert xyz.shape == rgb.shape == (points, 3)
    assert np.isfinite(xyz).all() and np.linalg.norm(xyz, axis=1).max() < 1.001
    assert rgb.min() >= 0 and rgb.max() <= largest


def _catalogue(path: Path) -> None:
    """Lists a catalogue and prepares all its models."""
    skipped = None
    for item in furniture.read_catalogue(path):
        try:
            shape = furniture.Furniture(test="").prepare(
                item, points=32, views=1, image_size=16, seed=0
            )
            _check_cloud(shape.xyz, shape.rgb, largest=255, points=32)
        except shapes.SkipShape as skip:
            skipped = skip
    if skipped:
        raise skipped


def _model_net(path: Path) -> None:
    item = modelnet40.OffItem("a", "test", "chair", variant="off", path=str(path))
    xyz, _, _ = item.read(points=32, rng=np.random.default_rng(0))
    assert np.isfinite(xyz).all()


def _materials(path: Path) -> None:
    """Reads a square with this materials file."""
    files = {"a.obj": valid.OBJ.encode(), "a.mtl": path.read_bytes(), "a.png": valid.picture()}

    def read(name: str) -> bytes:
        if archives.safe_path(name) not in files:
            raise FileNotFoundError(name)
        return files[archives.safe_path(name)]

    references = Assets(read, folder="")
    surface = meshes.load(files["a.obj"], file_type="obj", references=references, fill=0.4).surface
    assert surface is not None and len(surface.triangles) == 4
    assert ((surface.opacity >= 0) & (surface.opacity <= 1)).all()


def _pickle(path: Path) -> None:
    _check_plain(safe_pickle.load(path))


def _check_plain(value: object) -> None:
    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "biufSU"
        value.tobytes()
    elif isinstance(value, dict):
        _check_plain([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _check_plain(item)
    else:
        assert value is None or type(value) in (str, int, float, bool, bytes)


def _torch(path: Path) -> None:
    for array in torch_file.load(path).values():
        assert array.dtype in ("<f4", "<i8")
        array.tobytes()


def _safetensors(path: Path) -> None:
    for array in files.read(path, source="openshape").values():
        array.tobytes()


def _hdf5(path: Path) -> None:
    names, rng = ("chair", "table"), np.random.default_rng(0)
    for item in benchmark.list_hdf5(path, split="test", names=names, variant="hdf5"):
        assert item.label in names
        xyz, _, _ = item.read(points=1, rng=rng)
        assert xyz.ndim == 2 and xyz.shape[1] == 3


def _arrays(path: Path) -> None:
    with path.open("rb") as stream:
        for array in numpy_files.ArrayFile(stream).values():
            array.tobytes()


@functools.cache
def _record_config() -> ConfigDict:
    config = base.get_config()
    config.data.points, config.teacher.dim = valid.POINTS, valid.DIM
    return config


def _record(path: Path) -> None:
    """Reads a record like training does, up to a row of a batch."""
    schema = records.schema(points=valid.POINTS, dim=valid.DIM)
    stored = example.Examples([path.read_bytes()], schema, names=source.FIELDS)
    opened = source.RecordSource(
        stored, shards=[("a", 1)], directory="made/up", split="train", cache=False
    )
    record = opened[0]
    if reason := corrupt_records.find_inconsistency(record):
        raise opened.corrupt_record_error(0, reason)
    row = loader.draw_sample(record | {"index": 0}, _record_config(), rng=np.random.default_rng(0))
    assert row["xyz"].shape == row["rgb"].shape == (valid.POINTS, 3)
    assert row["image"].shape == row["text"].shape == (valid.DIM,)


def _card(path: Path) -> None:
    card = model_card.from_json(path.read_text("utf-8", errors="replace"))
    models.build_model({**card.student, "points": card.points})


def _valid_card() -> list[valid.Valid]:
    config = base.get_config()
    student = {name: config.model[name] for name in config.model if name != "points"}
    fields = {
        **{"student": student, "size": "", "parameters": 10, "teacher": "t", "teacher_dim": 384},
        **{"up_axis": "z", "from_y_up": "swap", "normalisation": "unit_sphere"},
        **{"colour_fill": 0.4, "points": 1_024, "source": "mrd_jax", "source_file": ""},
        **{"source_sha256": "", "licence": ""},
    }
    return [valid.Valid(json.dumps(fields).encode())]


def _valid_run() -> list[valid.Valid]:
    run = {"config": json.loads(base.get_config().to_json()), "data": "0123456789abcdef"}
    return [valid.Valid(json.dumps(run).encode())]


def _picture(path: Path) -> None:
    picture = render.on_white(limits.read_file(path))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3


def _pictures() -> list[valid.Valid]:
    kinds = [("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB")]
    kinds += [("TIFF", "RGB"), ("TGA", "RGBA"), ("WEBP", "RGBA")]
    return [valid.Valid(valid.picture(*kind)) for kind in kinds]


def _valid_table() -> list[valid.Valid]:
    return [valid.Valid(valid.CSV.encode()), valid.Valid(b"Path\r\na.obj\r\n")]


def _valid_lines() -> list[valid.Valid]:
    rows = [{"path": "a.glb", "name": "chair", "captions": ["one", "two"]}, {"path": "b.ply"}]
    return [valid.Valid("\n".join(map(json.dumps, rows)).encode())]


def _format(kind: str) -> Reader:
    """Returns the reader of a file type."""
    is_isolated = bool(formats.FORMATS[kind].packages)
    write = functools.partial(valid_models.files, kind)
    return Reader(write, _cloud, (clouds.CloudError,), kind, share=0.1 if is_isolated else 1)


def _formats() -> dict[str, Reader]:
    """Returns the readers of meshes and point clouds whose packages are installed."""
    return {
        kind: _format(kind)
        for kind in valid_models.WRITERS
        if all(importlib.util.find_spec(name) for name in formats.FORMATS[kind].packages)
    }


READERS = {
    "catalogue": Reader(valid.catalogues, _catalogue, (ValueError, shapes.SkipShape), "sh3f"),
    "properties": Reader(
        lambda: [valid.Valid(valid.PROPERTIES.encode())],
        lambda path: properties.parse(path.read_bytes()),
        (),
    ),
    **_formats(),
    "mtl": Reader(lambda: [valid.Valid(valid.MTL.encode())], _materials, (MeshError,), "mtl"),
    "modelnet_off": Reader(
        functools.partial(valid_models.files, "off"), _model_net, (shapes.SkipShape,), "off"
    ),
    "numpy_files": Reader(
        functools.partial(valid_models.files, "npz"), _arrays, (numpy_files.ArrayFileError,)
    ),
    "pickle": Reader(valid.pickled, _pickle, (safe_pickle.UnsafePickleError,)),
    "safetensors": Reader(valid.safetensors_files, _safetensors, (ValueError,), "safetensors"),
    "hdf5": Reader(valid.hdf5_files, _hdf5, (ValueError,), "h5"),
    "torch_file": Reader(valid.torch_files, _torch, (ValueError,)),
    "record": Reader(valid.serialised, _record, (source.CorruptRecordError,)),
    "card": Reader(_valid_card, _card, (ValueError,)),
    "run": Reader(
        _valid_run,
        lambda path: run_identity.read(epath.Path(path)),
        (manifest.CorruptCheckpointError,),
    ),
    "picture": Reader(_pictures, _picture, (ValueError,)),
    "csv": Reader(_valid_table, tables.read, (ValueError,), "csv"),
    "jsonl": Reader(_valid_lines, tables.read, (ValueError,), "jsonl"),
}
