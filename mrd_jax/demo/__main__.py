# SPDX-License-Identifier: Apache-2.0
"""Serves a page to search an index with: by words, pictures, meshes, and more like this.

python -m mrd_jax.demo --checkpoint RUN --index INDEX

The index comes from `python -m mrd_jax.tools.search build`. Only this machine can reach the page,
unless --host says otherwise: 0.0.0.0 lets everybody in who can reach the machine. There is no
password and no encryption, so put a server that has both in front of it on an open network.
"""

import argparse
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from mrd_jax.distributed import compilation_cache
from mrd_jax.search import index as indices
from mrd_jax.search import nearest, queries

# Beyond these, whoever comes is told to come back later.
MOST_CONNECTIONS = 200


def warm(searcher: queries.Searcher) -> None:
    """Compiles everything, so that the first question is as quick as the others."""
    warm_texts(searcher)
    searcher.picture(PIL.Image.new("RGB", (8, 8), "white"))
    points = searcher.index.card.points
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1) * 0.999
    searcher.cloud(circle, np.full((points, 3), 0.5))


def warm_texts(searcher: queries.Searcher) -> None:
    """Compiles texts of one to a dozen words: a teacher may compile every length apart."""
    searcher.texts([str(number) for number in range(8)])  # the shortest fill a call
    for words in (5, 9, 13):
        searcher.text(" ".join(["shape"] * words))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
      arguments: without the program's name; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mrd_jax.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, type=Path, help="the encoder that made the index")
    add("--index", required=True, type=Path, help="folder of mrd_jax.tools.search build")
    add("--teacher", help="hub name or folder; left out: the index knows")
    add("--host", default="127.0.0.1", help="address to serve at; 127.0.0.1")
    add("--port", type=int, default=8000, help="to serve at, 0 is any that is free; 8000")
    add("--upload_megabytes", type=float, default=32, help="most of a dropped file; 32")
    add("--read_seconds", type=float, default=10, help="most that reading one may take; 10")
    add("--read_gigabytes", type=float, default=6, help="of memory, most for reading one; 6")
    add("--ann", action="store_true", help="search approximately, from 200,000 shapes")
    options = parser.parse_args(arguments)
    for name, least in (("upload_megabytes", 0), ("read_seconds", 0), ("read_gigabytes", 0.5)):
        if not least < getattr(options, name) < float("inf"):
            parser.error(f"--{name} is {getattr(options, name)}; expected more than {least}")
    return options


def allowed_hosts(host: str) -> tuple[str, ...]:
    """Names that a browser may call the page by; a foreign site that points here has another."""
    if host in ("0.0.0.0", "::"):
        return ("*",)
    return ("localhost", "127.0.0.1", host, f"[{host}]")


def run(options: argparse.Namespace) -> None:
    """Loads, compiles and serves until it is interrupted."""
    import uvicorn  # of the extra, as is what app imports

    from mrd_jax.demo import app as apps

    started = time.perf_counter()
    index = indices.read(options.index)
    searcher = queries.Searcher(
        index,
        encoder=queries.load_encoder(index, options.checkpoint),
        teacher=queries.load_teacher(index, options.teacher),
        ann=options.ann,
    )
    warm(searcher)
    limits = apps.Limits(
        upload_bytes=int(options.upload_megabytes * 2**20),
        read_seconds=options.read_seconds,
        read_bytes=int(options.read_gigabytes * 2**30),
        hosts=allowed_hosts(options.host),
    )
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.create_server((options.host, options.port), family=family) as listener:
        with apps.serving(searcher, limits) as app:
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(
                f"{len(index)} shapes at http://{host}:{listener.getsockname()[1]} after "
                f"{time.perf_counter() - started:.1f} s; Ctrl-C ends it",
                flush=True,
            )
            # The server passes on what it was ended by: not at once, but past what cleans up.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            # Logs go where those of the rest go.
            config = uvicorn.Config(app, log_config=None, log_level="warning", server_header=False)
            uvicorn.Server(config).run(sockets=[listener])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse_options(arguments)
    try:
        run(options)
    except KeyboardInterrupt:
        return 0
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        print(
            f'error: {error.name} is missing, and the page needs it: pip install "mrd_jax[demo]"',
            file=sys.stderr,
        )
        return 2
    except (OSError, ValueError, nearest.AnnUnsupportedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    compilation_cache.enable()
    sys.exit(main())
