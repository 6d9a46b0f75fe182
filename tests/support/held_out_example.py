# SPDX-License-Identifier: Apache-2.0
"""Held-out split of five shapes in three dimensions, for metrics that are computed by hand."""

import pathlib

import numpy as np

from mrd_jax import evaluation
from mrd_jax.evaluation import held_out_split

# Axes of the teacher's embedding space: chair-like, table-like, lamp-like.
CHAIR, TABLE, LAMP = np.eye(3, dtype=np.float32)


def record(name, *, label, feature, views=None, **fields):
    """Returns a decoded record with given text feature of its name and features of its views."""
    views = [feature] if views is None else views
    return {
        "id": fields.get("id", f"shop#{name}"),
        "name": name,
        "label": label,
        "image_features": np.asarray(views, dtype=np.float16).reshape(-1, 3),
        "text_features": np.asarray([CHAIR + TABLE, feature], dtype=np.float16),
        "caption_kinds": ["tags", "name"],
        "picture": fields.get("picture", f"{name}.jpg"),
        "creator": fields.get("creator", "A. Maker"),
        "licence": "CC0",
    }


class Split(list):
    """Decoded records that are read like a `source.RecordSource`."""

    directory = "shop/1.0.0"

    def read(self, index, fields):
        return {name: self[index][name] for name in fields}


def records():
    """Returns two shapes named Stool, a table, a lamp, and a shape of unknown class."""
    return [
        record("Stool", label=0, feature=CHAIR, id="s1"),
        record("Stool", label=0, feature=CHAIR, id="s2"),
        record("Desk", label=1, feature=TABLE, id="d", views=[2 * TABLE, 5 * CHAIR]),
        record("Torch", label=2, feature=LAMP, id="t"),
        record("Thing", label=-1, feature=CHAIR + TABLE + LAMP, id="x"),
    ]


def held_out(*, pictures=pathlib.Path("pictures"), rows=None) -> evaluation.HeldOut:
    """Returns `records()` as a held-out split in which the names Desk and Torch are unseen."""
    return held_out_split.collect(
        records() if rows is None else rows,
        class_names=("chair", "table", "lamp"),
        class_features=np.stack([CHAIR, TABLE, LAMP]),
        unseen_ids=["d", "t"],
        pictures=pictures,
    )
