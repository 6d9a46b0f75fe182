# SPDX-License-Identifier: Apache-2.0
"""Source of items that behave as told: they take time, end their worker, hang or fill memory.

Worker processes import this module, so that it works with every executor.
"""

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np

from data_prep import shapes

OPTIONS = {"points": 4, "views": 0, "image_size": 8, "seed": 0}


@dataclasses.dataclass(frozen=True)
class Item:
    """Item whose id is its number, "-" and what it does.

    Attributes:
      id: id of the item.
      folder: folder that remembers first attempts.
    """

    id: str
    folder: str


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """Source of the items of a text file: one line per item, with what it does.

    ok: gives a shape. skip: has none. kill: ends the worker. hang: sleeps for an hour. memory: asks
    for 50 GB. grow: fills memory. bug: raises a TypeError. absent: raises an error for the user.
    wait: waits for the file of `go_file`. once-...: does the rest at the first attempt only.
    sleep-S: takes S seconds.
    """

    family: str = "synthetic"
    from_y_up: str = "rotate"

    def items(self, input_dir):
        lines = (Path(input_dir) / "items.txt").read_text().split()
        return [Item(f"{number}-{line}", str(input_dir)) for number, line in enumerate(lines)]

    def prepare(self, item, *, points, views, image_size, seed):
        number, action = item.id.split("-", 1)
        if action.startswith("once-"):
            action = action.removeprefix("once-")
            try:
                (Path(item.folder) / f"tried{number}").touch(exist_ok=False)
            except FileExistsError:
                action = "ok"
        while action == "wait" and not go_file(item.folder).exists():
            time.sleep(0.01)
        act(action)
        rng = shapes.generator(seed, number)
        return shapes.Shape(
            id=item.id,
            source="synthetic",
            name=f"item {number}",
            catalogue="test" if int(number) % 4 == 0 else "train",
            category="",
            creator="",
            licence="CC0",
            xyz=shapes.normalise(rng.normal(size=(points, 3))),
            rgb=rng.integers(0, 256, (points, 3)).astype(np.uint8),
            images=(),
            image_kinds=(),
            captions=(("name", f"item {number}"),),
            label="",
        )

    def splits(self, prepared):
        names = ("train", "test")
        return {name: [s.id for s in prepared if s.catalogue == name] for name in names}

    def classes(self, prepared):
        return []


def go_file(folder):
    """Returns the file that items wait for; beside the input, whose content nodes compare."""
    return Path(f"{folder}.go")


def act(action):
    """Does what an item says."""
    name, _, argument = action.partition("-")
    if name == "sleep":
        time.sleep(float(argument))
    elif name == "skip":
        raise shapes.SkipShape("no surface")
    elif name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "hang":
        time.sleep(3600)
    elif name == "memory":
        np.ones(50 * 10**9 // 8)
    elif name == "grow":
        blocks = []
        while True:
            blocks.append(np.ones(25 * 10**5))
    elif name == "bug":
        raise TypeError("unsupported operand")
    elif name == "absent":
        raise ValueError("install the package x")
