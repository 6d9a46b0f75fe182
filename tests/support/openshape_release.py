# SPDX-License-Identifier: Apache-2.0
"""Writes small files in the layout of OpenShape's release, with numpy and json only."""

import hashlib
import json

import numpy as np

DIM = 1280
CLOUD = 40  # points per cloud; 10,000 in the release


def features(rng, *shape):
    """Returns features like those of CLIP: float32, not normalised."""
    return rng.normal(size=(*shape, DIM)).astype(np.float32)


def versions(rng):
    """Returns the two features of a text, with a leading axis as in the release."""
    return {"original": features(rng, 1), "prompt_avg": features(rng, 1)}


def shape(uid, *, dataset="Objaverse", names=1, retrieved=2, points=CLOUD, **changes):
    """Returns the content of a released file."""
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
    """Returns the path of a file as listed in the release."""
    folder = "Objaverse/000-001" if data["dataset"] == "Objaverse" else data["dataset"]
    return f"/mnt/data/{folder}/{data['id']}.npy"


def write_shape(root, data):
    """Writes a file to its path in the unpacked archives."""
    path = root / path_of(data).removeprefix("/mnt/data/")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, data)
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_training(root, shapes, *, rejected=(), split="train_all.json"):
    """Writes the files, the training list and the filter of some shapes."""
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
    """Returns the indices of the sampled points, as documented by the importer."""
    digest = hashlib.blake2b(shape_id.encode(), digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest, "little")])
    return rng.permutation(count)[:points]


def expected_cloud(xyz, *, y_up):
    """Rotates, centres and scales in float64, as documented by the importer."""
    xyz = np.array(xyz, np.float64)
    if y_up:
        xyz = np.stack([xyz[:, 0], xyz[:, 2], xyz[:, 1]], axis=1)
    xyz -= xyz.mean(axis=0)
    return xyz / np.sqrt((xyz**2).sum(axis=1)).max()
