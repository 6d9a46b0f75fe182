# SPDX-License-Identifier: Apache-2.0
"""Measures latency and size of the search page; prints one JSON line.

python -m benchmarks.demo --checkpoint runs/quickstart --index runs/index

Starts `python -m mrd_jax.demo` and sends requests like the page: new text, new pictures and new
meshes, each with the search that follows. Latencies are medians in milliseconds. `classify_ms` is
the classification of an uploaded mesh among ten new classes; `classify_worst_ms` is the slowest of
these requests, including the first. `page_bytes` is the number of bytes that are sent before the
first search, `load_ms` the time to fetch them. If chromium and the extra `browser` are installed,
`browser_load_ms` is the time until a browser has loaded the page, `browser_answer_ms` the time
until it shows search results, and `browser_shape_ms` until the first of them is drawn as a mesh or
a cloud. With --screenshot, the browser saves a picture of the results of --words.

With --clients 200 --seconds 60, measures instead what so many parallel clients of the HTTP API get
in that time: requests, errors, percentiles of their milliseconds, and the memory of the server.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import trimesh

from benchmarks.demo_load import ADJECTIVES, NOUNS, measure_load
from mrd_jax.cli import command
from mrd_jax.search import shape_index

# Classes per classification.
CLASSES = 10
# Links in HTML and imports in JavaScript.
LINKS = re.compile(rb'(?:src|href)="(static/[^"]+)"|(?:from|import\() ?"\./([^"]+)"')


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.demo")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--index", required=True)
    parser.add_argument("--teacher", help="hub name or folder (default: recorded in the index)")
    parser.add_argument(
        "--repeats", type=int, default=30, help="requests of each kind (default: 30)"
    )
    parser.add_argument("--screenshot", help="PNG file of the page with results, to write")
    parser.add_argument("--words", default="chair", help="text of the screenshot (chair)")
    parser.add_argument("--clients", type=int, default=0, help="parallel clients of the API")
    parser.add_argument("--seconds", type=float, default=60, help="with --clients: duration (60)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server (1)")
    options = parser.parse_args(arguments)
    demo_command = [sys.executable, "-m", "mrd_jax.demo", "--port", "0"]
    demo_command += ["--checkpoint", options.checkpoint, "--index", options.index]
    demo_command += ["--teacher", options.teacher] if options.teacher else []
    demo_command += ["--requests_per_minute", "0", "--workers", str(options.workers)]
    started = time.perf_counter()
    with subprocess.Popen(demo_command, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            ready = time.perf_counter() - started
            address = re.search(r"http://\S+", line)
            if address is None:
                raise OSError("the page did not start; see its output above")
            if options.clients:
                index = shape_index.read(options.index)
                measured = measure_load(
                    address.group(),
                    clients=options.clients,
                    seconds=options.seconds,
                    ids=[item.id for item in index.items],
                    process=server.pid,
                ) | {"shapes": len(index), "workers": options.workers}
            else:
                with launched_browser() as browser:
                    measured = measure(address.group() + "/", options, browser)
        finally:
            server.terminate()
    print(json.dumps({"benchmark": "demo", "start_s": round(ready, 1), **measured}))
    return 0


def measure(address: str, options: argparse.Namespace, browser: Any) -> dict:
    """Measures a running page; `browser` may be None."""
    index = shape_index.read(options.index)
    texts = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    random.Random(0).shuffle(texts)
    new_texts = iter(texts)
    pictures = iter(range(len(index)))

    def by_text() -> None:
        find(address, text=next(new_texts))

    def by_image() -> None:
        data = index.picture(next(pictures))
        find(address, upload=upload(address, "picture.jpg", data))

    def by_mesh() -> None:
        find(address, upload=upload(address, "mesh.glb", next(meshes)))

    repeats = min(options.repeats, len(index) - 1, len(texts) - 1)
    meshes = iter([mesh(0.1 * size) for size in range(1, repeats + 2)])
    measured = {
        "shapes": len(index),
        **measure_classification(address, repeats),
        "text_ms": median(by_text, repeats),
        "image_ms": median(by_image, repeats),
        "mesh_ms": median(by_mesh, repeats),
    }
    started = time.perf_counter()
    with futures.ThreadPoolExecutor(50) as threads:
        list(
            threads.map(
                lambda number: find(address, shape=index.items[number % len(index)].key), range(50)
            )
        )
    measured["fifty_at_once_ms"] = round(1_000 * (time.perf_counter() - started), 1)
    measured |= measure_page(address)
    if browser is None:
        return measured
    if options.screenshot:
        save_screenshot(address, browser, options)
    return measured | measure_in_browser(address, browser)


def save_screenshot(address: str, browser: Any, options: argparse.Namespace) -> None:
    """Saves a picture of the first results of a text, with their shapes drawn."""
    page = browser.new_page(viewport={"width": 1_200, "height": 1_150})
    page.goto(f"{address}?{urllib.parse.urlencode({'text': options.words})}")
    page.wait_for_function("() => document.querySelectorAll('.card canvas').length >= 8")
    page.wait_for_timeout(2_000)  # until all of them are drawn
    page.screenshot(path=options.screenshot)
    page.close()


def measure_classification(address: str, repeats: int) -> dict[str, float]:
    """Measures the classification of an uploaded mesh, with new classes in each request."""
    upload_id = upload(address, "mesh.glb", mesh(1.0))
    names = itertools.product(ADJECTIVES, NOUNS, NOUNS)  # as in "red chair table"
    times = []
    for _ in range(min(repeats, len(ADJECTIVES) * len(NOUNS) ** 2 // CLASSES)):
        classes = [("class", " ".join(next(names))) for _ in range(CLASSES)]
        query = urllib.parse.urlencode([("upload", upload_id), *classes])
        started = time.perf_counter()
        fetch(f"{address}api/classify?{query}")
        times.append(1_000 * (time.perf_counter() - started))
    return {
        "classify_ms": round(statistics.median(times), 1),
        "classify_worst_ms": round(max(times), 1),
    }


def mesh(height: float) -> bytes:
    """Returns a stretched sphere with 5,120 faces as a glb file."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    ball.apply_scale([1, 1, height])
    return ball.export(file_type="glb")


def median(call: Callable[[], None], repeats: int) -> float:
    """Returns the median time of a call in milliseconds, after one warm-up call."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(1_000 * statistics.median(times[1:]), 1)


def find(address: str, **query: object) -> dict:
    """Searches for shapes."""
    return json.loads(fetch(f"{address}api/find?{urllib.parse.urlencode(query)}"))


def upload(address: str, name: str, data: bytes) -> str:
    """Uploads a file; returns its id."""
    request = urllib.request.Request(
        f"{address}api/uploads?{urllib.parse.urlencode({'name': name})}",
        data=data,
        headers={"Content-Type": "application/octet-stream"},
    )
    return json.loads(fetch(request))["id"]


def fetch(request: str | urllib.request.Request) -> bytes:
    """Returns the body of a response."""
    with urllib.request.urlopen(request) as response:
        return response.read()


def measure_page(address: str) -> dict:
    """Measures size and load time of the page and of all files that it links to."""
    pending, fetched, sent, unpacked = ["", "api/about"], set(), 0, 0
    started = time.perf_counter()
    while pending:
        path = pending.pop()
        if path in fetched:
            continue
        fetched.add(path)
        request = urllib.request.Request(address + path, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request) as response:
            body = response.read()
            packed = response.headers.get("Content-Encoding") == "gzip"
        sent += len(body)
        body = gzip.decompress(body) if packed else body
        unpacked += len(body)
        if len(body) < 100_000:  # three.js has no imports
            for link, module in LINKS.findall(body):
                pending.append(link.decode() or f"static/{module.decode()}")
    seconds = time.perf_counter() - started
    return {
        "page_bytes": sent,
        "page_bytes_unpacked": unpacked,
        "page_files": len(fetched),
        "load_ms": round(1_000 * seconds, 1),
    }


def measure_in_browser(address: str, browser: Any) -> dict:
    """Measures five page loads and searches in a Playwright browser."""
    loads, answers, shapes = [], [], []
    for number in range(6):  # the first one is a warm-up
        page = browser.new_page()
        page.goto(address, wait_until="load")
        loads.append(
            page.evaluate("() => performance.getEntriesByType('navigation')[0].loadEventEnd")
        )
        page.wait_for_load_state("networkidle")  # a user would not type any sooner
        page.fill("#words", f"shape number {number}")
        started = time.perf_counter()
        page.press("#words", "Enter")
        page.wait_for_selector(".card")
        answers.append(1_000 * (time.perf_counter() - started))
        page.wait_for_selector(".card canvas")
        shapes.append(1_000 * (time.perf_counter() - started))
        page.close()
    return {
        "browser_load_ms": round(statistics.median(loads[1:]), 1),
        "browser_answer_ms": round(statistics.median(answers[1:]), 1),
        "browser_shape_ms": round(statistics.median(shapes[1:]), 1),
    }


@contextlib.contextmanager
def launched_browser() -> Iterator[Any]:
    """Yields a Playwright browser, None if chromium or the extra `browser` is not installed."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright import sync_api  # an optional extra
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        yield None
        return
    # Renders WebGL on the CPU.
    options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=options)


if __name__ == "__main__":
    sys.exit(main())
