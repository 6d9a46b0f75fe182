# SPDX-License-Identifier: Apache-2.0
"""Small files in the layout of OpenShape's release, written with numpy and json alone."""

import hashlib
import json

import numpy as np

DIM = 1280
CLOUD = 40  # points of a released cloud here; 10,000 in the release


def features(rng, *shape):
    """Features as CLIP gives them: float32, not normalised."""
    return rng.normal(size=(*shape, DIM)).astype(np.float32)


def versions(rng):
    """The two features of a text; the release has them as rows."""
    return {"original": features(rng, 1), "prompt_avg": features(rng, 1)}


def shape(uid, *, dataset="Objaverse", names=1, retrieved=2, points=CLOUD, **changes):
    """What one released file holds."""
    rng = np.random.default_rng(int.from_bytes(uid.encode(), "little") % 2**32)
    return {
        "dataset": dataset,
        "group": f"{dataset}-group",
        "id": uid,
        "xyz": rng.uniform(-1, 1, (points, 3)),
        "rgb": rng.random((points, 3)),
        "image_feat": features(rng, 12),
        "thumbnail_feat": features(rng),
        "text": [f"{uid} name {n}" for n in range(names)],
        "text_feat": [versions(rng) for _ in range(names)],
        "blip_caption": f"blip of {uid}",
        "blip_caption_feat": versions(rng),
        "msft_caption": f"msft of {uid}",
        "msft_caption_feat": versions(rng),
        "retrieval_text": [f"retrieved {n} for {uid}" for n in range(retrieved)],
        "retrieval_text_feat": [{"original": features(rng, 1)} for _ in range(retrieved)],
    } | changes


def path_of(data):
    """Where the release keeps a file, as its lists write it."""
    folder = "Objaverse/000-001" if data["dataset"] == "Objaverse" else data["dataset"]
    return f"/mnt/data/{folder}/{data['id']}.npy"


def write_shape(root, data):
    """Saves one file where the unpacked archives leave it."""
    path = root / path_of(data).removeprefix("/mnt/data/")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, data)
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_training(root, shapes, *, rejected=(), split="train_all.json"):
    """The files, the training list and the filter of a few shapes."""
    for data in shapes:
        write_shape(root, data)
    entries = [
        {"id": data["id"], "dataset": data["dataset"], "group": data["group"]}
        | {"data_path": path_of(data)}
        for data in shapes
    ]
    write_json(root / "meta_data/split" / split, entries)
    flags = {d["id"]: {"flag": "N" if d["id"] in rejected else "Y"} for d in shapes}
    write_json(root / "meta_data/gpt4_filtering.json", flags)


def chosen(shape_id, *, count, points, seed=0):
    """Which points a record has, by the rule that the importer documents."""
    digest = hashlib.blake2b(shape_id.encode(), digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest, "little")])
    return rng.permutation(count)[:points]


def expected_cloud(xyz, *, y_up):
    """Turned, centred and scaled by the book, in float64."""
    xyz = np.array(xyz, np.float64)
    if y_up:
        xyz = np.stack([xyz[:, 0], xyz[:, 2], xyz[:, 1]], axis=1)
    xyz -= xyz.mean(axis=0)
    return xyz / np.sqrt((xyz**2).sum(axis=1)).max()
