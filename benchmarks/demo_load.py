# SPDX-License-Identifier: Apache-2.0
"""Load of many parallel clients on the HTTP API, for `benchmarks.demo`."""

import http.client
import itertools
import json
import pathlib
import random
import threading
import time
import urllib.parse

import numpy as np

ADJECTIVES = ("red", "round", "wooden", "small", "old", "blue", "modern", "tall", "soft", "metal")
NOUNS = ("chair", "table", "lamp", "plant", "bed", "shelf", "door", "sofa", "vase", "car")
# Time limit of a request.
_TIMEOUT = 60


def measure_load(
    address: str, *, clients: int, seconds: float, ids: list[str], process: int
) -> dict[str, float]:
    """Lets clients send one query after another, each over a connection of its own.

    Of four queries, two are texts, one is a shape with a text of negative weight, and one asks for
    the neighbours of a shape.

    Args:
      address: address of the server.
      clients: number of parallel clients.
      seconds: duration.
      ids: ids of shapes of the index.
      process: process id of the server, for its memory.

    Returns:
      Requests, errors, requests per second, percentiles of their milliseconds, and the largest
      memory of the server and its children in MB.
    """
    times: list[list[float]] = [[] for _ in range(clients)]
    errors: list[str] = []
    end = time.perf_counter() + seconds
    threads = [
        threading.Thread(target=_ask_until, args=(address, end, ids, number, times[number], errors))
        for number in range(clients)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append(tree_megabytes(process))
        time.sleep(1)
    elapsed = time.perf_counter() - started
    values = np.array(list(itertools.chain.from_iterable(times)))
    p50, p99 = np.percentile(values, [50, 99]).tolist() if len(values) else (0.0, 0.0)
    measured: dict[str, float] = {
        "clients": clients,
        "seconds": round(elapsed, 1),
        "requests": len(values),
        "errors": len(errors),
        "requests_per_s": round(len(values) / elapsed, 1),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "server_mb": max(memory),
    }
    return measured | ({"first_error": errors[0]} if errors else {})


def _ask_until(
    address: str, end: float, ids: list[str], number: int, times: list[float], errors: list[str]
) -> None:
    """Sends queries until a time; notes the milliseconds of each and the errors."""
    choose = random.Random(number)
    host = urllib.parse.urlsplit(address).netloc
    connection = http.client.HTTPConnection(host, timeout=_TIMEOUT)
    while time.perf_counter() < end:
        method, path, body = _query(choose, ids)
        started = time.perf_counter()
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200 or not answer["shapes"]:
                errors.append(f"{response.status}: {answer}"[:200])
        except (OSError, http.client.HTTPException, ValueError) as error:
            errors.append(repr(error))
            connection.close()
        times.append(1_000 * (time.perf_counter() - started))
    connection.close()


def _query(choose: random.Random, ids: list[str]) -> tuple[str, str, str | None]:
    """Returns the method, path and body of a random query."""
    text = {"text": f"{choose.choice(ADJECTIVES)} {choose.choice(NOUNS)}"}
    kind = choose.randrange(4)
    if kind == 3:
        query = urllib.parse.urlencode({"id": choose.choice(ids)})
        return "GET", f"/api/v1/neighbours?{query}", None
    terms = [text] if kind < 2 else [{"id": choose.choice(ids)}, text | {"weight": -0.5}]
    return "POST", "/api/v1/search", json.dumps({"terms": terms})


def tree_megabytes(process: int) -> float:
    """Returns the memory of a process and its descendants; 0 where the system has no /proc.

    Pages that processes share, such as those of the index, count for each in equal parts.
    """
    total = 0.0
    for member in (process, *_descendants(process)):
        try:
            text = pathlib.Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return round(total / 1_024, 1)


def _descendants(process: int) -> list[int]:
    children: list[int] = []
    for task in pathlib.Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children += map(int, task.read_text().split())
        except OSError:
            continue
    return children + [each for child in children for each in _descendants(child)]
