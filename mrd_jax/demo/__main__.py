# SPDX-License-Identifier: Apache-2.0
"""Serves a web page that searches an index by text, pictures and meshes.

python -m mrd_jax.demo --checkpoint RUN --index INDEX

Build the index with `python -m mrd_jax.tools.search build`. By default, only this machine can open
the page. With --host 0.0.0.0, every machine that can reach this one can open it. There is no
authentication and no encryption: on an untrusted network, put a reverse proxy that provides both in
front of the page.
"""

import argparse
import signal
import socket
import sys
import time
from collections.abc import Sequence

import numpy as np
import PIL.Image

from mrd_jax.cli import command
from mrd_jax.distributed import compilation_cache
from mrd_jax.search import queries, shape_index


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


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.demo")
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        type=command.encoder_path,
        help="encoder that the index was built with",
    )
    add("--index", required=True, type=command.path, help="folder of mrd_jax.tools.search build")
    add("--teacher", help="hub name or folder (default: recorded in the index)")
    add("--host", default="127.0.0.1", help="address to bind to (default: 127.0.0.1)")
    add("--port", type=int, default=8000, help="port, 0 for any free port (default: 8000)")
    for name, default, text in (
        ("--upload_megabytes", 32, "maximum size of an upload"),
        ("--read_seconds", 10, "time limit for reading an upload"),
        ("--read_gigabytes", 6, "memory limit for reading an upload"),
    ):
        add(name, type=float, default=default, help=f"{text} (default: {default})")
    add("--ann", action="store_true", help="search approximately; for 200,000 shapes and more")
    options = parser.parse_args(arguments)
    for name, lower in (("upload_megabytes", 0), ("read_seconds", 0), ("read_gigabytes", 0.5)):
        if not lower < getattr(options, name) < float("inf"):
            parser.error(f"--{name} is {getattr(options, name)}; expected more than {lower}")
    return options


def allowed_hosts(host: str) -> tuple[str, ...]:
    """Returns the Host headers to accept, which protects local servers from DNS rebinding."""
    if host in ("0.0.0.0", "::"):
        return ("*",)
    return ("localhost", "127.0.0.1", host, f"[{host}]")


def run(options: argparse.Namespace) -> None:
    """Loads and compiles the models, then serves the page until interrupted.

    Raises:
      ImportError: the extra `demo` is not installed.
    """
    try:
        import uvicorn

        from mrd_jax.demo import web_app
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{error.name} is missing; the page needs it. Run pip install "mrd_jax[demo]"'
        ) from error

    started = time.perf_counter()
    index = shape_index.read(options.index)
    searcher = queries.Searcher(
        index,
        encoder=queries.load_encoder(index, options.checkpoint),
        teacher=queries.load_teacher(index, options.teacher),
        ann=options.ann,
    )
    warm_up(searcher)
    limits = web_app.Limits(
        upload_bytes=int(options.upload_megabytes * 2**20),
        read_seconds=options.read_seconds,
        read_bytes=int(options.read_gigabytes * 2**30),
        hosts=allowed_hosts(options.host),
    )
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.create_server((options.host, options.port), family=family) as listener:
        with web_app.serving(searcher, limits) as app:
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(
                f"serving {len(index)} shapes at http://{host}:{listener.getsockname()[1]} after "
                f"{time.perf_counter() - started:.1f} s; press Ctrl-C to stop",
                flush=True,
            )
            if index.reader_note():
                print(f"note: {index.reader_note()}", file=sys.stderr, flush=True)
            # uvicorn raises the signal that stopped it again. By default, SIGTERM would then end
            # this process before the context managers clean up.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            # Without a log_config, uvicorn logs through the root logger.
            config = uvicorn.Config(app, log_config=None, log_level="warning", server_header=False)
            uvicorn.Server(config).run(sockets=[listener])


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    try:
        run(options)
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    compilation_cache.enable()
    sys.exit(main())
