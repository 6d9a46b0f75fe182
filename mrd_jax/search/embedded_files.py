# SPDX-License-Identifier: Apache-2.0
"""Builds an index from the output of `mrd_jax.tools.embed`; entries of shapes for other indexes."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tqdm

from data_prep import evaluation
from data_prep.geometry import clouds, meshes
from data_prep.geometry.listing import printable
from data_prep.shape_names import name_of
from mrd_jax import storage
from mrd_jax.checkpoints import model_card
from mrd_jax.data import numpy_files
from mrd_jax.search import display_meshes, manifest, pictures, shape_files, shape_index
from mrd_jax.search.entries import Origin

# Points that a picture is drawn from, and the side of the picture in pixels.
PICTURE_POINTS, _PICTURE_SIDE = 10_000, 128


def index_embeddings(
    output: storage.PathLike,
    file: storage.PathLike,
    *,
    points: int,
    teacher: str,
    mesh_faces: int = manifest.MESH_FACES,
    ann: bool = False,
) -> None:
    """Writes the index of files that `mrd_jax.tools.embed` has embedded.

    Args:
      output: folder of the index, must not exist.
      file: npz file of `mrd_jax.tools.embed`.
      points: number of points to store per shape.
      teacher: hub name or folder; "" for the name on the encoder's model card.
      mesh_faces: largest number of faces of the mesh that the page shows; 0 for no meshes.
      ann: also write the file for approximate search.

    Raises:
      ValueError: see `read_embedded`, or an entry is invalid, see `shape_index.write`.
      formats.MissingPackageError: see `read_embedded`.
    """
    embedded = read_embedded(file)
    place = relative_place(teacher or embedded.card.teacher, output)
    shape_index.write(
        output,
        embedded.entries(points, mesh_faces=mesh_faces),
        count=len(embedded.files),
        points=points,
        card=embedded.card,
        checkpoint=embedded.checkpoint,
        teacher=shape_index.Teacher(embedded.card.teacher, place=place),
        reader_version=embedded.reader_version,
        mesh_faces=mesh_faces,
        ann=ann,
    )


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Files that `mrd_jax.tools.embed` has embedded.

    Attributes:
      files: the files with their metadata.
      rows: float32 [files, dim], unit norm.
      card: model card of the encoder.
      checkpoint: fingerprint of the encoder.
      reader_version: version of the readers of the files.
    """

    files: list[shape_files.ShapeFile]
    rows: np.ndarray
    card: model_card.ModelCard
    checkpoint: str
    reader_version: int

    def entries(self, points: int, *, mesh_faces: int) -> Iterator[shape_index.Entry]:
        """Yields the entries of the files, which are read again for their points and meshes.

        Args:
          points: number of points to store per shape.
          mesh_faces: largest number of faces of a mesh; 0 for no meshes.

        Raises:
          ValueError: a file is missing or unreadable.
        """
        conventions = clouds.Conventions.of(self.card, points=max(points, PICTURE_POINTS))
        pairs = zip(self.files, self.rows, strict=True)
        for file, row in tqdm.tqdm(pairs, total=len(self.files), desc="reading", unit="file"):
            content, cloud = _read_again(file, conventions=conventions)
            entry = cloud_entry(printable(str(file.path)), file, cloud, points=points)
            mesh = display_meshes.of_file(
                content,
                cloud,
                up=clouds.vertical_axis(file.path, content, stated=file.up).up,
                conventions=conventions,
                max_faces=mesh_faces,
                points=points,
            )
            yield dataclasses.replace(entry, row=row, mesh=mesh)


def read_embedded(file: storage.PathLike) -> Embedded:
    """Reads the output of `mrd_jax.tools.embed`.

    Args:
      file: npz file.

    Raises:
      ValueError: the npz file is corrupt or from an earlier version.
      formats.MissingPackageError: there are meshes among the files and trimesh is not installed.
    """
    arrays = _read_arrays(file)
    columns = (arrays[name].tolist() for name in ("files", *shape_files.METADATA))
    files = [
        shape_files.ShapeFile(Path(path), *metadata)
        for path, *metadata in zip(*columns, strict=True)
    ]
    clouds.check_readable(file.path for file in files)
    return Embedded(
        files,
        arrays["embeddings"],
        model_card.from_json(str(arrays["card"])),
        str(arrays["checkpoint"]),
        int(arrays["reader_version"]),
    )


def _read_again(
    file: shape_files.ShapeFile, *, conventions: clouds.Conventions
) -> tuple[meshes.Content, clouds.Cloud]:
    """Reads an embedded file."""
    try:
        content = clouds.read_content(
            file.path, fill=conventions.colour_fill, root=file.root or None
        )
        return content, clouds.make_cloud(
            content, path=file.path, conventions=conventions, up=file.up or None
        )
    except clouds.CloudError as error:
        raise ValueError(
            f"{printable(str(file.path))} was embedded, but cannot be read now: {error}. Run this "
            "command from the folder where mrd_jax.tools.embed was run, or embed the files again"
        ) from error


def cloud_entry(
    shape_id: str,
    file: shape_files.ShapeFile,
    cloud: clouds.Cloud,
    *,
    points: int,
    origin: Origin | None = None,
) -> shape_index.Entry:
    """Returns the entry of a file without its embedding, with a picture of its point cloud.

    Args:
      shape_id: id of the shape.
      file: its file, with metadata.
      cloud: at least `PICTURE_POINTS` points.
      points: number of points to store.
      origin: state of the file.
    """
    # A small cloud repeats its points in order; the first points have to be a random sample.
    order = np.random.default_rng(0).permutation(len(cloud.xyz))
    rgb = np.rint(cloud.rgb[order] * 255).astype(np.uint8)
    entry = make_entry(
        shape_id,
        file.name or name_of(str(file.path)),
        file.creator,
        file.licence,
        row=np.zeros(0),
        xyz=cloud.xyz[order],
        rgb=rgb,
        points=points,
        picture=None,
    )
    item = dataclasses.replace(entry.item, label=file.label, origin=origin)
    return dataclasses.replace(entry, item=item)


def make_entry(
    shape_id: str,
    name: str,
    creator: str,
    licence: str,
    *,
    row: np.ndarray,
    xyz: np.ndarray,
    rgb: np.ndarray,
    points: int,
    picture: bytes | None,
) -> shape_index.Entry:
    """Returns an entry; if there is no picture, draws one of the point cloud."""
    if picture is None:
        picture = pictures.draw_cloud(xyz, rgb, size=_PICTURE_SIDE)
    file = evaluation.picture_name(shape_id)
    item = shape_index.Item(shape_id, name, creator, licence, picture=file)
    return shape_index.Entry(item, row, xyz[:points], rgb[:points], picture)


def relative_place(place: str, output: storage.PathLike) -> str:
    """Returns a hub name as it is, and a path relative to the index, so that both can move."""
    if not place or not Path(place).exists():
        return place
    if storage.is_remote(output):
        return str(Path(place).resolve())
    return os.path.relpath(Path(place).resolve(), Path(output).resolve())


def _read_arrays(file: storage.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file of `mrd_jax.tools.embed`, of this version or an earlier."""
    names = ("embeddings", "files", "names", "creators", "licences", "up", "card", "checkpoint")
    try:
        with storage.path(file).open("rb") as stream:
            arrays = numpy_files.ArrayFile(stream)
            missing = [name for name in names if name not in arrays]
            if missing:
                raise ValueError(
                    f"{file} lacks {missing}; expected the output of python -m mrd_jax.tools.embed "
                    "of this version"
                )
            found = {name: arrays[name] for name in names}
            if "head" in arrays and str(arrays["head"]) != "contrastive":
                raise ValueError(
                    f"{file} has embeddings by --head {arrays['head']}, but searches embed with "
                    "the contrastive head; run python -m mrd_jax.tools.embed without --head"
                )
            # Earlier versions wrote none of these, and looked for textures beside each file only.
            nothing = np.full(len(found["files"]), "")
            added = {"roots": nothing, "labels": nothing, "reader_version": np.array(1)}
            return found | {key: arrays[key] if key in arrays else added[key] for key in added}
    except numpy_files.ArrayFileError as error:
        raise ValueError(f"{file} is not an output of mrd_jax.tools.embed: {error}") from error
