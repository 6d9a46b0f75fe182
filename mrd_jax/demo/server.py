# SPDX-License-Identifier: Apache-2.0
"""Loads the models and serves the application in one process or several."""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import tqdm
import uvicorn
from starlette import applications
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from mrd_jax.cli import command, logs
from mrd_jax.demo import access, web_app
from mrd_jax.distributed import compilation_cache
from mrd_jax.search import queries, shape_index

# Options of the command, as JSON, for the processes that it starts.
_OPTIONS = "MRD_JAX_DEMO_OPTIONS"
# Time that requests in flight have to finish when the server stops.
_SHUTDOWN_SECONDS = 30
# Time within which a process has to answer its parent, also while it compiles.
_ALIVE_SECONDS = 60
# Time between two attempts to reach the first process, and of one attempt.
_ANNOUNCE_SECONDS, _ATTEMPT_SECONDS = 0.5, 600


def warm_up(searcher: queries.Searcher) -> None:
    """Compiles the models, so that the first query is as fast as the others."""
    warm_up_text(searcher)
    if searcher.teacher is not None and searcher.teacher.has_images:
        searcher.embed_picture(PIL.Image.new("RGB", (8, 8), "white"))
    points = searcher.index.card.points
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1) * 0.999
    searcher.embed_cloud(circle, np.full((points, 3), 0.5))


def warm_up_text(searcher: queries.Searcher) -> None:
    """Compiles texts of up to a dozen words: a teacher may compile once per padded length."""
    searcher.embed_texts([str(number) for number in range(8)])  # one word each, in full batches
    for words in (5, 9, 13):
        searcher.embed_text(" ".join(["shape"] * words))


def allowed_hosts(host: str) -> tuple[str, ...]:
    """Returns the Host headers to accept, which protects local servers from DNS rebinding."""
    if host in ("0.0.0.0", "::"):
        return ("*",)
    return ("localhost", "127.0.0.1", host, f"[{host}]")


def load_searcher(options: argparse.Namespace) -> queries.Searcher:
    """Opens the index, and loads and compiles the models."""
    index = shape_index.read(options.index)
    searcher = queries.Searcher(
        index,
        encoder=queries.load_encoder(index, options.checkpoint),
        teacher=queries.load_teacher(index, options.teacher),
        ann=options.ann,
    )
    warm_up(searcher)
    return searcher


@contextlib.contextmanager
def serving(
    options: argparse.Namespace, searcher: queries.Searcher
) -> Iterator[applications.Starlette]:
    """Yields the application with the limits and rules of the command line."""
    limits = web_app.Limits(
        upload_bytes=int(options.upload_megabytes * 2**20),
        read_seconds=options.read_seconds,
        read_bytes=int(options.read_gigabytes * 2**30),
        hosts=allowed_hosts(options.host),
    )
    rules = access.Rules(
        tokens=access.read_tokens(options.token_file) if options.token_file else (),
        public=options.public,
        per_minute=options.requests_per_minute,
        origins=tuple(options.allow_origin),
    )
    shared = pathlib.Path(options.shared) if options.shared else None
    service = web_app.Service(rules, shared=shared, request_log=options.request_log)
    with web_app.serving(searcher, limits, service) as app:
        yield app


def run(options: argparse.Namespace) -> None:
    """Serves until the process is interrupted or terminated; requests in flight are finished."""
    started = time.perf_counter()
    options.shared = None
    if options.token_file:
        access.read_tokens(options.token_file)  # before the models are loaded
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.create_server((options.host, options.port), family=family) as listener:
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listener.getsockname()[1]}"
        # uvicorn raises the signal that stopped it again. By default, SIGTERM would then end this
        # process before the context managers clean up.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if options.workers > 1:
            _run_workers(options, listener, address, started)
        else:
            _run_here(options, listener, address, started)


def _run_here(
    options: argparse.Namespace, listener: socket.socket, address: str, started: float
) -> None:
    searcher = load_searcher(options)
    with serving(options, searcher) as app:
        _print_ready(searcher.index, address, started)
        uvicorn.Server(_config(app)).run(sockets=[listener])


def _run_workers(
    options: argparse.Namespace, listener: socket.socket, address: str, started: float
) -> None:
    """Starts processes that accept connections of the same socket, and restarts those that die."""
    index = shape_index.read(options.index)
    with tempfile.TemporaryDirectory(prefix="mrd_jax_demo_") as shared:
        fields = {name: _as_text(value) for name, value in vars(options).items()}
        os.environ[_OPTIONS] = json.dumps(fields | {"shared": shared})
        config = _config(
            "mrd_jax.demo.server:create",
            factory=True,
            workers=options.workers,
            timeout_worker_healthcheck=_ALIVE_SECONDS,
        )
        threading.Thread(
            target=_announce, args=(index, address, started), daemon=True, name="announcement"
        ).start()
        supervisor = Multiprocess(config, sockets=[listener])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise OSError("the server did not start; its processes have printed why")


def create() -> applications.Starlette:
    """Returns the application of one of several processes; it is closed with the process."""
    logs.quiet_libraries()
    compilation_cache.enable()
    # The default is a lock between processes, which Python reports as leaked after a SIGTERM.
    tqdm.tqdm.set_lock(threading.RLock())
    fields = json.loads(os.environ[_OPTIONS])
    for name in ("token_file", "request_log"):
        fields[name] = fields[name] and pathlib.Path(fields[name])
    options = argparse.Namespace(**fields)
    resources = contextlib.ExitStack()
    try:
        app = resources.enter_context(serving(options, load_searcher(options)))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        command.print_error(error)
        sys.exit(STARTUP_FAILURE)  # else the parent would start another process

    @contextlib.asynccontextmanager
    async def lifespan(app: applications.Starlette) -> Any:
        with resources:
            yield

    app.router.lifespan_context = lifespan
    return app


def _as_text(value: Any) -> Any:
    """Returns a value of an option as JSON."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _config(app: Any, **options: Any) -> uvicorn.Config:
    # Without a log_config, uvicorn logs through the root logger. Its access log has addresses with
    # queries; `metrics.Metrics` writes one without.
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        **options,
    )


def _announce(index: shape_index.ShapeIndex, address: str, started: float) -> None:
    """Prints the address as soon as one of the processes answers."""
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError):
            with urllib.request.urlopen(f"{address}/healthz", timeout=_ATTEMPT_SECONDS):
                _print_ready(index, address, started)
                return
        time.sleep(_ANNOUNCE_SECONDS)


def _print_ready(index: shape_index.ShapeIndex, address: str, started: float) -> None:
    seconds = time.perf_counter() - started
    print(
        f"serving {len(index)} shapes at {address} after {seconds:.1f} s; press Ctrl-C to stop",
        flush=True,
    )
    if index.reader_note():
        print(f"note: {index.reader_note()}", file=sys.stderr, flush=True)
