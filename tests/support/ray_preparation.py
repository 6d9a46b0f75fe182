# SPDX-License-Identifier: Apache-2.0
"""Program of test_ray_executor: prepares and encodes on a Ray cluster, one node of which dies.

python ray_preparation.py FOLDER agreement|details

Writes what the tests compare to FOLDER/report.json.
"""

import functools
import hashlib
import json
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import fake_data
import openshape_release
import ray
import ray.cluster_utils
import synthetic_source

from data_prep import (
    build,
    build_flags,
    features,
    merge,
    parts,
    prepare,
    ray_encoders,
    shapes,
    sources,
    teacher_stage,
    teachers,
)

prepare.ITEMS_PER_SHARD = 4
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
# A dead node is noticed within a second.
HEALTH = {"health_check_period_ms": 300, "health_check_failure_threshold": 3}


def run(raw, cache, **execution):
    execution = build_flags.Execution(**execution)
    options = synthetic_source.OPTIONS | {"execution": execution}
    return prepare.prepare_shapes("synthetic", raw, cache, **options)


def checksums(folder, pattern="shard-*.npz"):
    """Returns {relative path: checksum} of the shards, or other files, in a folder."""
    paths = [path for path in folder.rglob(pattern) if path.is_file()]
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


def dead_nodes(*, seconds=30):
    """Returns the number of dead nodes, once the cluster has noticed one."""
    deadline = time.monotonic() + seconds
    while not (dead := sum(not each["Alive"] for each in ray.nodes())):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return dead


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
        "node_killed": dead_nodes() == 1,
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


def load_teacher(name, *, dtype, revision="1", batch_size=None):
    """Loads the fake teacher; the nodes import it."""
    del name, dtype, batch_size
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
        "fake",
        {"revision": "1", "dtype": "float32"},
        teacher.info,
        load=ray_preparation.load_teacher,
    )
    counts = ray_encoders.encode_shards(members, root / "ray_features", loading, address=None)
    other = ray_encoders.Loading(
        "fake",
        {"revision": "2", "dtype": "float32"},
        teacher.info,
        load=ray_preparation.load_teacher,
    )
    message = error_of(ray_encoders.encode_shards, members, root / "unused", other, address=None)
    return {
        "counts": counts,
        "local_features": checksums(root / "local_features"),
        "ray_features": checksums(root / "ray_features"),
        "other_teacher": message,
    }


def build_report(root):
    """Builds a data set of a published source here and on the cluster."""
    raw = root / "release"
    data = [openshape_release.shape(f"u{number}") for number in range(9)]
    openshape_release.write_training(raw, data)
    checked = {}
    for executor, workers in (("local", 0), ("ray", None)):
        output = root / f"build_{executor}"
        execution = build_flags.Execution(executor=executor, workers=workers)
        options = build.Options(
            "openshape", raw, output, "released", points=16, execution=execution
        )
        files = [path for path in build.build(options).rglob("*") if path.is_file()]
        content = {str(path.relative_to(output)): path.read_bytes() for path in files}
        checked[f"build_{executor}"] = {
            name: hashlib.sha256(each).hexdigest() for name, each in content.items()
        }
    return checked


def build_synthetic(raw, output, join=None, **execution):
    """Builds a data set with the fake teacher, or merges the parts `join` to one."""
    execution = build_flags.Execution(**execution)
    options = build.Options(
        "synthetic", raw, output, "fake/teacher", points=4, views=0, execution=execution
    )
    import ray_preparation

    load = ray_preparation.load_teacher
    loading = functools.partial(ray_encoders.Loading, load=load)
    with (
        mock.patch.object(teacher_stage.ray_encoders, "Loading", loading),
        mock.patch.object(teachers, "load_teacher", lambda *_, dtype, **__: load("", dtype=dtype)),
        mock.patch("data_prep.teachers.names.check"),
    ):
        return merge.merge(join, options) if join else build.build(options)


def agreement_report(cluster, node, root):
    """Builds one source on the cluster, in parts and in this process; reports all files."""
    waiting = ["wait", "ok", "skip", "ok"]
    raw = write_items(root / "raw", ["ok"] * 12 + waiting * 2 + ["ok"] * 4)

    def kill_and_go_on():
        kill_node(cluster, node, root / "ray" / "shapes" / "synthetic")
        synthetic_source.go_file(raw).touch()

    killing = threading.Thread(target=kill_and_go_on)
    killing.start()
    build_synthetic(raw, root / "ray", executor="ray")
    killing.join()
    report = {"dead_nodes": dead_nodes()}
    build_synthetic(raw, root / "local", workers=0)
    folders = [root / f"part{index}" for index in range(3)]
    for index, folder in enumerate(folders):
        build_synthetic(raw, folder, workers=0, part=parts.Part(index, 3))
    build_synthetic(raw, root / "merged", folders)
    for name in ("local", "ray", "merged"):
        places = ("shapes", "features", "synthetic")
        report[name] = {place: checksums(root / name / place, "*") for place in places}
    return report


def details_report(cluster, node, root):
    """Reports skipped items, errors, features and a source with released features."""
    return shapes_report(cluster, node, root) | features_report(root) | build_report(root)


def main():
    root = Path(sys.argv[1])
    reports = {"agreement": agreement_report, "details": details_report}
    sources.SOURCES["synthetic"] = synthetic_source.Synthetic()
    cluster = ray.cluster_utils.Cluster(
        initialize_head=True,
        head_node_args=NODE | {"include_dashboard": False, "_system_config": HEALTH},
    )
    node = cluster.add_node(**NODE)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    report = reports[sys.argv[2]](cluster, node, root)
    (root / "report.json").write_text(json.dumps(report))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
