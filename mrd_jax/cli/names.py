# SPDX-License-Identifier: Apache-2.0
"""Names of the commands, and their help as a user of `mrd-jax` or of `python -m` calls them."""

import importlib.util
import pathlib
import re

# Module by command; names only, so that one of the modules is imported.
COMMANDS = {
    "quickstart": "mrd_jax.tools.quickstart",
    "doctor": "mrd_jax.tools.doctor",
    "fetch": "data_prep.fetch",
    "prepare": "data_prep.build",
    "train": "mrd_jax.main",
    "inspect": "mrd_jax.tools.inspect",
    "embed": "mrd_jax.tools.embed",
    "index": "mrd_jax.tools.index",
    "search": "mrd_jax.tools.search",
    "demo": "mrd_jax.demo",
    "classify": "mrd_jax.tools.classify",
    "duplicates": "mrd_jax.tools.duplicates",
    "cluster": "mrd_jax.tools.cluster",
    "coverage": "mrd_jax.tools.coverage",
    "convert": "mrd_jax.tools.convert",
    "export": "mrd_jax.tools.export",
    "average": "mrd_jax.tools.average",
    "reproduce": "mrd_jax.tools.reproduce",
    "calibrate": "mrd_jax.tools.calibrate",
    "neighbours": "mrd_jax.tools.neighbours",
    "compare": "mrd_jax.tools.compare",
    "verify": "mrd_jax.tools.verify",
    "compile": "mrd_jax.tools.compile",
    "selfcheck": "mrd_jax.tools.selfcheck",
    "completion": "mrd_jax.tools.completion",
}

_console = False


def call_as_console() -> None:
    """Makes `as_called` write `mrd-jax NAME`: this process was started by that command."""
    global _console
    _console = True


def as_called(text: str) -> str:
    """Returns a text of this project with its commands as the user calls them.

    Under `mrd-jax`, `python -m MODULE` and the bare name of a module become `mrd-jax NAME`, and
    `configs/NAME.py` becomes `NAME`, since there may be no such folder. Otherwise, returns the text
    as it is.
    """
    if not _console:
        return text
    text = re.sub(r"--config configs/(\w+)\.py", r"--config \1", text)
    modules = {module: name for name, module in COMMANDS.items()}
    longest_first = sorted(map(re.escape, modules), key=len, reverse=True)
    pattern = rf"(?:python\s+-m\s+)?(?<![\w.])({'|'.join(longest_first)})(?![\w.]*\w)"
    return re.sub(pattern, lambda match: f"mrd-jax {modules[match[1]]}", text)


def source(module: str) -> str:
    """Returns the source of a command's module, which is not imported; the packages above it are.

    Args:
      module: value of `COMMANDS`; of a package, the source of its `__main__`.

    Raises:
      ImportError: there is no such module.
    """
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    if spec is None or spec.origin is None:
        raise ImportError(f"the module {module} is missing: install mrd_jax again")
    return pathlib.Path(spec.origin).read_text("utf-8")
