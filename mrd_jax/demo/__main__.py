# SPDX-License-Identifier: Apache-2.0
"""Serves a web page that searches an index by text, pictures and meshes, and an HTTP API.

python -m mrd_jax.demo --checkpoint RUN --index INDEX
python -m mrd_jax.demo --checkpoint RUN --index INDEX --token_file tokens.txt --workers 4

Build the index with `python -m mrd_jax.tools.index` or `python -m mrd_jax.tools.search build`. When
the index changes, the new version is served within seconds, without a restart.

By default, only this machine can open the page. With --host 0.0.0.0, every machine that can reach
this one can open it. With --token_file, every request needs one of the tokens in the file, and
shapes can be added. There is no encryption: on an untrusted network, put a reverse proxy that
provides it in front of the server.

The API lies under /api/v1 and is described at /api/openapi.json; `mrd_jax.search.client` uses it.
/healthz says whether the process answers, and /metrics has counts and times for Prometheus.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence

from mrd_jax.cli import command
from mrd_jax.distributed import compilation_cache


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
    add(
        "--token_file",
        type=command.local_path,
        help="file with one token per line, which requests have to send; also allows to add shapes",
    )
    add(
        "--public",
        action="store_true",
        help="with --token_file: only adding shapes needs a token",
    )
    add(
        "--requests_per_minute",
        type=float,
        default=600,
        help="queries of a client per minute and process, 0 for any number (default: 600)",
    )
    add(
        "--allow_origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin of a web page whose scripts may use the API, such as https://shop.example",
    )
    add("--workers", type=int, default=1, help="processes, each with its own models (default: 1)")
    add(
        "--request_log",
        type=command.local_path,
        help="file to append a line of JSON per request to, without its content",
    )
    options = parser.parse_args(arguments)
    _check_service(parser, options)
    for name, lower in (("upload_megabytes", 0), ("read_seconds", 0), ("read_gigabytes", 0.5)):
        if not lower < getattr(options, name) < float("inf"):
            parser.error(f"--{name} is {getattr(options, name)}; expected more than {lower}")
    return options


def _check_service(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not 0 <= options.requests_per_minute < float("inf"):
        parser.error(f"--requests_per_minute is {options.requests_per_minute}; expected 0 or more")
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}; expected a positive number")
    if options.public and options.token_file is None:
        parser.error("--public needs --token_file")
    for origin in options.allow_origin:
        if not re.fullmatch(r"https?://[\w.\-\[\]:]+", origin):
            parser.error(
                f"--allow_origin is {origin!r}; expected an origin such as https://shop.example"
            )


def run(options: argparse.Namespace) -> None:
    """Serves the page until interrupted.

    Raises:
      ImportError: the extra `demo` is not installed.
    """
    try:
        importlib.import_module("uvicorn")
        from mrd_jax.demo import server
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{error.name} is missing; the page needs it. Run pip install "mrd_jax[demo]"'
        ) from error
    server.run(options)


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
