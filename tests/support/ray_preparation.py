# SPDX-License-Identifier: Apache-2.0
"""Program of test_ray_executor: prepares and encodes on a Ray cluster, one node of which dies.

Prints one JSON line of what the tests compare.
"""

import contextlib
import hashlib
import json
import sys
import threading
import time
from pathlib import Path

import fake_data
import ray
import ray.cluster_utils
import synthetic_source

from data_prep import build_flags, features, prepare, ray_encoders, shapes, sources

prepare.ITEMS_PER_SHARD = 4
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def run(raw, cache, **execution):
    execution = build_flags.Execution(**execution)
    options = synthetic_source.OPTIONS | {"execution": execution}
    return prepare.prepare_shapes("synthetic", raw, cache, **options)


def checksums(folder):
    """Returns {relative path: checksum} of the shards in a folder."""
    paths = folder.rglob("shard-*.npz")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def write_items(folder, actions):
    folder.mkdir()
    (folder / "items.txt").write_text("\n".join(actions))
    return folder


def error_of(function, *arguments, **options):
    """Returns the class and the message of the exception that a call must raise."""
    try:
        function(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("no exception")


def kill_node(cluster, node, cache):
    """Kills a node without grace once two shards are written."""
    while len(prepare.shard_paths(cache)) < 2:
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)


def shapes_report(cluster, node, root):
    """Prepares the same items locally and on the cluster, and reports what is equal."""
    plain = ["ok", "skip", "kill", "ok", "sleep-0.3", "sleep-0.3", "ok", "ok"]
    busy = ["sleep-0.3"] * 8
    raw = write_items(root / "raw", [*plain, *busy, *plain, "once-kill", *busy[1:]])
    killing = threading.Thread(target=kill_node, args=(cluster, node, root / "ray"))
    killing.start()
    summary = run(raw, root / "ray", executor="ray")
    killing.join()
    run(raw, root / "local", workers=1)
    absent = write_items(root / "absent", ["absent"])
    return {
        "node_killed": len([each for each in ray.nodes() if not each["Alive"]]) == 1,
        "ray": checksums(root / "ray"),
        "local": checksums(root / "local"),
        "read": summary.read,
        "written": summary.written,
        "skipped": summary.skipped,
        "retried": summary.retried,
        "absent": error_of(run, absent, root / "cache", executor="ray"),
        "other_input": other_input_report(root),
    }


def other_input_report(root):
    """Reports the error where a node has another folder at the path of the input."""
    from data_prep.executors import ray_cluster

    raw = write_items(root / "other", ["ok"])
    original = ray_cluster._entries
    ray_cluster._entries = lambda folder: [*original(folder), "file of the driver"]
    try:
        return error_of(run, raw, root / "cache2", executor="ray")
    finally:
        ray_cluster._entries = original


def load_teacher(name, *, revision):
    """Loads the fake teacher; the nodes import it."""
    del name
    return fake_data.FakeTeacher(revision=revision)


def features_report(root):
    """Encodes the shapes of the fake source here and on the cluster."""
    sources.SOURCES["fake"] = fake_data.FakeSource()
    prepare.ITEMS_PER_SHARD = 32
    options = {"points": 24, "views": 2, "image_size": 8}
    execution = build_flags.Execution(workers=0)
    prepare.prepare_shapes("fake", root, root / "fake", execution=execution, **options)
    members = {
        path: [shape.id for shape in shapes.load_shard(path)]
        for path in prepare.shard_paths(root / "fake")
    }
    teacher = fake_data.FakeTeacher()
    ids = [each for shard in members.values() for each in shard]
    features.encode_shards(list(members), root / "local_features", teacher, ids=ids)

    import ray_preparation  # by its name, since this module is "__main__"

    loading = ray_encoders.Loading(
        "fake", {"revision": "1"}, teacher.info, load=ray_preparation.load_teacher
    )
    counts = ray_encoders.encode_shards(members, root / "ray_features", loading, address=None)
    other = ray_encoders.Loading(
        "fake", {"revision": "2"}, teacher.info, load=ray_preparation.load_teacher
    )
    message = error_of(ray_encoders.encode_shards, members, root / "unused", other, address=None)
    return {
        "counts": counts,
        "local_features": checksums(root / "local_features"),
        "ray_features": checksums(root / "ray_features"),
        "other_teacher": message,
    }


def main():
    root = Path(sys.argv[1])
    sources.SOURCES["synthetic"] = synthetic_source.Synthetic()
    cluster = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args=NODE | {"include_dashboard": False}
    )
    node = cluster.add_node(**NODE)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    with contextlib.redirect_stdout(sys.stderr):
        report = shapes_report(cluster, node, root) | features_report(root)
    print(json.dumps(report))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
