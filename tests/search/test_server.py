# SPDX-License-Identifier: Apache-2.0
"""The command of the server as several processes, with stand-ins for the models."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import small_shapes
import tiny_index
from doc_pages import ROOT

from mrd_jax.search import client as clients
from mrd_jax.search import index_writer

TOKEN = "a-token-of-the-test-suite"
# Imported by every Python process: replaces the models as soon as their module is imported.
STAND_INS = """
import importlib.abc, importlib.util, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "mrd_jax.search.queries":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            import numpy as np
            import tiny_index

            class Encoder:
                def embed(self, clouds, *, batch_size=1):
                    rows = [tiny_index.row(255 * rgb.mean(axis=0)) for _, rgb in clouds]
                    return np.array([row / np.linalg.norm(row) for row in rows])

            module.load_teacher = lambda index, place: tiny_index.FakeTeacher()
            module.load_encoder = lambda index, checkpoint: Encoder()

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def started(folder, *arguments):
    """Starts the command; returns its process and address."""
    (folder / "sitecustomize.py").write_text(STAND_INS)
    path = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests" / "support")))
    command = [sys.executable, "-m", "mrd_jax.demo", "--port", "0", "--checkpoint", str(folder)]
    process = subprocess.Popen(
        [*command, "--index", str(folder / "index"), *arguments],
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(folder / "temporary")},
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    return process, re.search(r"http://\S+", line)[0]


@pytest.mark.slow
def test_processes_share_the_index_uploads_and_metrics_and_stop_cleanly(tmp_path):
    tiny_index.write(tmp_path / "index")
    (tmp_path / "temporary").mkdir()
    tokens = tmp_path / "tokens.txt"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    (tmp_path / "red.png").write_bytes(small_shapes.picture((255, 0, 0)))
    log = tmp_path / "requests.jsonl"
    arguments = ["--workers", "2", "--token_file", str(tokens), "--request_log", str(log)]
    process, address = started(tmp_path, *arguments)
    try:
        client = clients.Client(address, token=TOKEN)
        wait_until(lambda: len(metric_files(tmp_path)) == 2)  # both processes have started
        for _ in range(40):  # a connection each, which either process accepts
            assert client.search([{"file": str(tmp_path / "red.png")}], count=1)[0]["id"] == "box/0"
        with index_writer.open_writer(tmp_path / "index", user="test") as writer:
            writer.remove(["box/0"])
            writer.publish()
        time.sleep(5)  # both have looked for a new version
        for _ in range(20):
            assert client.search([{"text": "red"}], count=1)[0]["id"] != "box/0"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{address}/metrics", headers=headers)
        with urllib.request.urlopen(request) as response:
            text = response.read().decode()
        assert 'mrd_jax_requests_total{route="v1/search",status="200"} 60' in text
        assert all(file.stat().st_size for file in metric_files(tmp_path))
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        process.stdout.close()
    assert status == 0
    assert list((tmp_path / "temporary").iterdir()) == []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["route"] == "v1/search" for line in lines) == 60
    assert TOKEN not in log.read_text()


@pytest.mark.slow
def test_the_server_ends_if_its_processes_cannot_start(tmp_path):
    tiny_index.write(tmp_path / "index")
    command = [sys.executable, "-m", "mrd_jax.demo", "--port", "0", "--workers", "2"]
    command += ["--index", str(tmp_path / "index"), "--checkpoint", str(tmp_path / "nothing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "error: the server did not start" in done.stderr


def metric_files(folder):
    return list((folder / "temporary").glob("mrd_jax_demo_*/metrics-*"))


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError("the condition was not met in time")
