# SPDX-License-Identifier: Apache-2.0
"""How quickly the search page answers and loads, as one JSON line.

python -m benchmarks.demo --checkpoint runs/quickstart --index runs/index

Starts `python -m mrd_jax.demo` and asks it as the page would: words that it has not met, and files
that it has not met, each with the search that follows; `classify_ms` is the naming of a dropped
mesh among ten classes that it has not met, `classify_worst_ms` the slowest of them, the first
included. Latencies are otherwise medians in milliseconds.
`page_bytes` are sent before anything is searched for. `load_ms` is how long they take to fetch;
`browser_load_ms`, where chromium and the extra `browser` are there, is when a browser has loaded
the page, and `browser_answer_ms` when it shows what it found.
"""

import argparse
import contextlib
import gzip
import itertools
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import trimesh

from mrd_jax.search import index as indices

ADJECTIVES = ("red", "round", "wooden", "small", "old", "blue", "modern", "tall", "soft", "metal")
NOUNS = ("chair", "table", "lamp", "plant", "bed", "shelf", "door", "sofa", "vase", "car")
# Classes to choose among.
CLASSES = 10
# What a page or a module asks for by itself.
LINKS = re.compile(rb'(?:src|href)="(static/[^"]+)"|(?:from|import\() ?"\./([^"]+)"')


def main() -> None:
    """Starts the page, measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--index", required=True)
    parser.add_argument("--teacher", help="left out: the index knows")
    parser.add_argument("--repeats", type=int, default=30, help="timed questions of each kind")
    options = parser.parse_args()
    command = [sys.executable, "-m", "mrd_jax.demo", "--port", "0"]
    command += ["--checkpoint", options.checkpoint, "--index", options.index]
    command += ["--teacher", options.teacher] if options.teacher else []
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            ready = time.perf_counter() - started
            address = re.search(r"http://\S+", line)
            if address is None:
                raise SystemExit("the page did not start; see above")
            with launched() as browser:
                measured = measure(address.group() + "/", options, browser)
        finally:
            server.terminate()
    print(json.dumps({"benchmark": "demo", "start_s": round(ready, 1), **measured}))


def measure(address: str, options: argparse.Namespace, browser: Any) -> dict:
    """All figures of a running page; those of a browser where there is one."""
    index = indices.read(options.index)
    words = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    random.Random(0).shuffle(words)
    questions = iter(words)
    pictures = iter(range(len(index)))

    def by_text() -> None:
        find(address, text=next(questions))

    def by_image() -> None:
        data = index.picture(next(pictures)).read_bytes()
        find(address, upload=upload(address, "picture.jpg", data))

    def by_mesh() -> None:
        find(address, upload=upload(address, "mesh.glb", next(meshes)))

    repeats = min(options.repeats, len(index) - 1, len(words) - 1)
    meshes = iter([mesh(0.1 * size) for size in range(1, repeats + 2)])
    found = {
        "shapes": len(index),
        **classifying(address, repeats),
        "text_ms": median(by_text, repeats),
        "image_ms": median(by_image, repeats),
        "mesh_ms": median(by_mesh, repeats),
    }
    started = time.perf_counter()
    with futures.ThreadPoolExecutor(50) as threads:
        list(threads.map(lambda number: find(address, shape=number % len(index)), range(50)))
    found["fifty_at_once_ms"] = round(1_000 * (time.perf_counter() - started), 1)
    found |= weight(address)
    return found | in_browser(address, browser) if browser else found


def classifying(address: str, repeats: int) -> dict[str, float]:
    """Times of naming a dropped mesh among classes, every time others."""
    dropped = upload(address, "mesh.glb", mesh(1.0))
    names = itertools.product(ADJECTIVES, NOUNS, NOUNS)  # as in "red chair table"
    times = []
    for _ in range(min(repeats, len(ADJECTIVES) * len(NOUNS) ** 2 // CLASSES)):
        chosen = [("class", " ".join(next(names))) for _ in range(CLASSES)]
        query = urllib.parse.urlencode([("upload", dropped), *chosen])
        started = time.perf_counter()
        fetch(f"{address}api/classify?{query}")
        times.append(1_000 * (time.perf_counter() - started))
    return {
        "classify_ms": round(statistics.median(times), 1),
        "classify_worst_ms": round(max(times), 1),
    }


def mesh(height: float) -> bytes:
    """A ball of 5,120 faces, stretched, as a glb file."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    ball.apply_scale([1, 1, height])
    return ball.export(file_type="glb")


def median(ask: Callable[[], None], repeats: int) -> float:
    """Median time of a call in milliseconds, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        ask()
        times.append(time.perf_counter() - started)
    return round(1_000 * statistics.median(times[1:]), 1)


def find(address: str, **query: object) -> dict:
    """Asks for shapes."""
    return json.loads(fetch(f"{address}api/find?{urllib.parse.urlencode(query)}"))


def upload(address: str, name: str, data: bytes) -> str:
    """Drops a file; returns what to ask for it with."""
    request = urllib.request.Request(
        f"{address}api/uploads?{urllib.parse.urlencode({'name': name})}",
        data=data,
        headers={"Content-Type": "application/octet-stream"},
    )
    return json.loads(fetch(request))["id"]


def fetch(request: str | urllib.request.Request) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def weight(address: str) -> dict:
    """Bytes of the page and of all that it links to, as sent and unpacked, and the time for it."""
    waiting, seen, sent, unpacked = ["", "api/about"], set(), 0, 0
    started = time.perf_counter()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        asked = urllib.request.Request(address + path, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(asked) as answer:
            body = answer.read()
            packed = answer.headers.get("Content-Encoding") == "gzip"
        sent += len(body)
        body = gzip.decompress(body) if packed else body
        unpacked += len(body)
        if len(body) < 100_000:  # three.js links to nothing
            for link, module in LINKS.findall(body):
                waiting.append(link.decode() or f"static/{module.decode()}")
    spent = time.perf_counter() - started
    return {
        "page_bytes": sent,
        "page_bytes_unpacked": unpacked,
        "page_files": len(seen),
        "load_ms": round(1_000 * spent, 1),
    }


def in_browser(address: str, browser: Any) -> dict:
    """Medians of five loads and searches in a browser of playwright."""
    loads, answers = [], []
    for number in range(6):  # the first ones warm the browser up
        page = browser.new_page()
        page.goto(address, wait_until="load")
        loads.append(
            page.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd")
        )
        page.wait_for_load_state("networkidle")  # nobody types as quickly as a program
        page.fill("#words", f"shape number {number}")
        started = time.perf_counter()
        page.press("#words", "Enter")
        page.wait_for_selector(".card")
        answers.append(1_000 * (time.perf_counter() - started))
        page.close()
    return {
        "browser_load_ms": round(statistics.median(loads[1:]), 1),
        "browser_answer_ms": round(statistics.median(answers[1:]), 1),
    }


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A browser of playwright; None where chromium or the extra `browser` is absent."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright import sync_api  # an optional extra
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        yield None
        return
    # WebGL by the processor, where there is no graphics card.
    options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=options)


if __name__ == "__main__":
    main()
