# SPDX-License-Identifier: Apache-2.0
"""Fake teacher that embeds colours, and a small index, for tests of the search and its page."""

import jax
import numpy as np
from tiny_encoder import DIM, POINTS, random_clouds, tiny_card, tiny_variables

from data_prep import teachers
from mrd_jax import encoder
from mrd_jax.search import glb, pictures, queries, shape_index

COUNT = 12
WORDS = ("red", "green", "blue")


class FakeTeacher:
    """Embeds a picture as its mean colour and a text as the colours that it names."""

    info = teachers.TeacherInfo("fake/teacher", "r1", DIM, "clip", "none")
    has_images = True

    def encode_images(self, images, *, progress=False):
        means = [np.asarray(image, np.float32).reshape(-1, 3).mean(axis=0) for image in images]
        return np.array([row(mean) for mean in means])

    def encode_texts(self, texts):
        return np.array([row([text.count(word) for word in WORDS]) for text in texts], np.float32)


def row(colour):
    """Returns the feature of a colour: its channels, and a constant, so that black is not zero."""
    feature = np.zeros(DIM, np.float32)
    feature[:3] = np.asarray(colour) / max(np.max(colour), 1)
    feature[3] = 0.5
    return feature


def entries(rows):
    """Yields one shape per row: a random point cloud, named by its number.

    Shapes with even numbers have a mesh.
    """
    for number, (unit_row, (xyz, rgb)) in enumerate(
        zip(rows, random_clouds(len(rows)), strict=True)
    ):
        item = shape_index.Item(
            f"box/{number}",
            f"box {number}" * (number > 0),
            f"maker {number}",
            "CC0",
            f"{number}.jpg",
        )
        colours = np.rint(rgb * 255).astype(np.uint8)
        picture = pictures.draw_cloud(xyz, colours, size=32)
        mesh = tetrahedron(WORDS[number % 3]) if number % 2 == 0 else b""
        yield shape_index.Entry(item, unit_row, xyz, colours, picture, mesh)


def tetrahedron(word):
    """Returns a tetrahedron of one of three colours as a glb file."""
    corners = np.array([[0, 0, 0.9], [0.8, 0, -0.4], [-0.4, 0.7, -0.4], [-0.4, -0.7, -0.4]])
    colour = [255 * (word == each) for each in WORDS]
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    return glb.write(corners, np.tile(np.array([*colour, 255], np.uint8), (4, 1)), faces)


def unit_rows(count=COUNT, dim=DIM, *, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def coloured_rows():
    """Returns random rows; the first three are the features of `WORDS`."""
    rows = unit_rows()
    rows[:3] = [queries.normalise(row(colour)) for colour in np.eye(3)]
    return rows


def write(folder, rows=None, *, checkpoint="of an encoder", **changes):
    """Writes an index, by default of `coloured_rows`; returns its folder."""
    if rows is None:
        rows = coloured_rows()
    options = {
        "count": len(rows),
        "points": POINTS,
        "card": tiny_card(),
        "teacher": shape_index.Teacher("fake/teacher", "r1", "somewhere"),
    }
    shape_index.write(folder, entries(rows), checkpoint=checkpoint, **options | changes)
    return folder


def searcher(folder):
    """Returns a searcher with both models; row 5 is the embedding of the first random cloud."""
    encoder.save(folder / "encoder", variables=tiny_variables(), card=tiny_card())
    student = encoder.load(folder / "encoder", devices=jax.local_devices()[:1])
    rows = coloured_rows()
    rows[5] = student.embed(random_clouds(1))[0]
    index = shape_index.read(write(folder / "index", rows))
    return queries.Searcher(index, encoder=student, teacher=FakeTeacher())
