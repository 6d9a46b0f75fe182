# SPDX-License-Identifier: Apache-2.0
"""A fake source and a fake teacher, and the real build of a data set from them."""

import dataclasses
import io

import numpy as np
import PIL.Image

from data_prep import build, build_flags, shapes, sources, teachers

ITEMS, POINTS, DIM = 40, 24, 6  # two shards
IN_PROCESS = build_flags.Execution(workers=0)


@dataclasses.dataclass(frozen=True)
class Item:
    id: str


class FakeSource:
    """Source of 40 items; item i is named after i // 2, and every fourth is a test shape."""

    family = "fake"
    from_y_up = "rotate"

    def items(self, input_dir):
        return [Item(f"Thing #{index}/\u00fc") for index in range(ITEMS)]

    def prepare(self, item, *, points, views, image_size, seed):
        index = int(item.id.split("#")[1].split("/")[0])
        rng = np.random.default_rng([seed, index])
        colours = np.random.default_rng([seed, index, 1])
        if index == 7:
            raise shapes.SkipShape("no surface")
        kinds = ("render",) * views + ("picture",) * (index % 3 > 0)
        captions = (("name", f"thing {index // 2}"), ("tags", f"t{index}"), ("tags", "all"))
        return shapes.Shape(
            id=item.id,
            source="fake",
            name=f"thing {index // 2}",
            catalogue="train" if index % 4 else "test",
            category="",
            creator=f"author {index}",
            licence="CC0",
            xyz=shapes.normalise(rng.normal(size=(points, 3))),
            rgb=rng.integers(0, 256, (points, 3)).astype(np.uint8),
            images=() if index == 9 else tuple(picture(colours, size=image_size) for _ in kinds),
            image_kinds=() if index == 9 else kinds,
            captions=() if index == 10 else captions,
            label=["", "round", "flat", "only in training"][index % 4 if index % 8 else 1],
        )

    def splits(self, prepared):
        names = ("train", "test")
        return {name: [s.id for s in prepared if s.catalogue == name] for name in names}

    def classes(self, prepared):
        return ["flat", "round"]


def picture(rng, *, size: int) -> bytes:
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


class FakeTeacher:
    """Teacher whose image feature is mean colour and size, and whose text feature is counts."""

    def __init__(self, revision: str = "1", factor: float = 1.0):
        self.info = teachers.TeacherInfo("fake/teacher", revision, DIM, "clip", "none")
        self.factor = factor
        self.pictures = self.texts = 0

    def encode_images(self, images, *, progress=False):
        self.pictures += len(images)
        rows = []
        for data in images:
            pixels = np.asarray(PIL.Image.open(io.BytesIO(data)), np.float32)
            rows.append([*pixels.mean((0, 1)), *pixels.shape])
        return self.factor * np.array(rows, np.float32)

    def encode_texts(self, texts):
        self.texts += len(texts)
        return np.array(
            [[len(t), t.count("t"), t.count("1"), t.count("a"), 1, -1] for t in texts], np.float32
        )


def run_build(output, monkeypatch, *, teacher=None, kind="fake/teacher", **changes):
    """Runs the real build with the fake source; returns (folder of the data set, teacher)."""
    teacher = teacher or FakeTeacher()
    output.mkdir(parents=True, exist_ok=True)
    monkeypatch.setitem(sources.SOURCES, "fake", FakeSource())
    monkeypatch.setattr(teachers, "load_teacher", lambda *args, **kwargs: teacher)
    monkeypatch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
    options = {"points": POINTS, "views": 2, "image_size": 8, "execution": IN_PROCESS} | changes
    options = build.Options(source="fake", input=output, output=output, teacher=kind, **options)
    return build.build(options), teacher


def prepare_all() -> dict[str, shapes.Shape]:
    """Prepares every item of the fake source; returns the shapes by id."""
    options = {"points": POINTS, "views": 2, "image_size": 8, "seed": 0}
    items = [item for item in FakeSource().items(None) if "#7/" not in item.id]
    return {item.id: FakeSource().prepare(item, **options) for item in items}
