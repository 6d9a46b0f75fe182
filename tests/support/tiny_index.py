# SPDX-License-Identifier: Apache-2.0
"""A teacher of colours and an index of a few boxes, for tests of the search and of its page."""

import jax
import numpy as np
from tiny_encoder import DIM, POINTS, random_clouds, tiny_card, tiny_variables

from data_prep import teachers
from mrd_jax import encoder
from mrd_jax.search import index as indices
from mrd_jax.search import pictures, queries

COUNT = 12
WORDS = ("red", "green", "blue")


class FakeTeacher:
    """A picture is its mean colour, a text the colours that it names."""

    info = teachers.TeacherInfo("fake/teacher", "r1", DIM, "clip", "none")

    def encode_images(self, images, *, progress=False):
        means = [np.asarray(image, np.float32).reshape(-1, 3).mean(axis=0) for image in images]
        return np.array([row(mean) for mean in means])

    def encode_texts(self, texts):
        return np.array([row([text.count(word) for word in WORDS]) for text in texts], np.float32)


def row(colour):
    """A colour as a feature: its parts, and a constant that keeps black from being nothing."""
    found = np.zeros(DIM, np.float32)
    found[:3] = np.asarray(colour) / max(np.max(colour), 1)
    found[3] = 0.5
    return found


def entries(rows):
    """One shape a row: a random cloud named after its place."""
    for place, (unit, (xyz, rgb)) in enumerate(zip(rows, random_clouds(len(rows)), strict=True)):
        item = indices.Item(
            f"box/{place}", f"box {place}" * (place > 0), f"maker {place}", "CC0", f"{place}.jpg"
        )
        colours = np.rint(rgb * 255).astype(np.uint8)
        yield indices.Entry(item, unit, xyz, colours, pictures.draw_cloud(xyz, colours, size=32))


def unit_rows(count=COUNT, dim=DIM, *, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def coloured_rows():
    """The first three are the colours."""
    rows = unit_rows()
    rows[:3] = [queries.unit(row(colour)) for colour in np.eye(3)]
    return rows


def write(folder, rows=None, *, checkpoint="of an encoder", **changes):
    """Writes an index whose first three rows are the colours; returns its folder."""
    if rows is None:
        rows = coloured_rows()
    options = {
        "count": len(rows),
        "points": POINTS,
        "card": tiny_card(),
        "teacher": indices.Teacher("fake/teacher", "r1", "somewhere"),
    }
    indices.write(folder, entries(rows), checkpoint=checkpoint, **options | changes)
    return folder


def searcher(folder):
    """Everything that a page needs; shape 5 has the embedding of the first random cloud."""
    encoder.save(folder / "encoder", variables=tiny_variables(), card=tiny_card())
    student = encoder.load(folder / "encoder", devices=jax.local_devices()[:1])
    rows = coloured_rows()
    rows[5] = student.embed(random_clouds(1))[0]
    index = indices.read(write(folder / "index", rows))
    return queries.Searcher(index, encoder=student, teacher=FakeTeacher())
