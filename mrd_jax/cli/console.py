# SPDX-License-Identifier: Apache-2.0
"""`mrd-jax COMMAND ...` is `python -m MODULE ...`, from any folder.

mrd-jax train --config quickstart --workdir runs/mine

What follows the command goes to the module as it is, except that `--config NAME` also finds the
experiments that were installed with the package.
"""

import importlib.util
import pathlib
import runpy
import sys

# A command -> the module that `python -m` would run; by name, so that only one is imported.
COMMANDS = {
    "train": "mrd_jax.main",
    "prepare": "data_prep.build",
    "embed": "mrd_jax.tools.embed",
    "search": "mrd_jax.tools.search",
    "demo": "mrd_jax.demo",
    "convert": "mrd_jax.tools.convert",
    "neighbours": "mrd_jax.tools.neighbours",
    "compare": "mrd_jax.tools.compare",
    "verify": "mrd_jax.tools.verify",
    "compile_tpu": "mrd_jax.tools.compile_tpu",
}


def main() -> None:
    """Runs the command that the first argument names."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if name not in COMMANDS:
        lines = [f"  {command:<12}python -m {module}" for command, module in COMMANDS.items()]
        usage = "usage: mrd-jax COMMAND ...; each takes --help\n" + "\n".join(lines)
        if name in ("", "-h", "--help"):
            print(usage)
            return
        sys.exit(f"mrd-jax: no command {name!r}\n{usage}")
    sys.argv = [sys.argv[0], *with_installed_config(arguments)]
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)


def with_installed_config(arguments: list[str]) -> list[str]:
    """The arguments with the name of an installed experiment replaced by its file.

    `--config NAME` or `--config=NAME`, optionally `NAME:VARIANT`; a value that ends in `.py` before
    its variant is a file of the user's and stays.

    Raises:
      SystemExit: there is no installed experiment of that name; lists those there are.
    """
    found = []
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.lstrip("-") == "config" and flag.startswith("-") and equals:
            found.append(f"{flag}={_file(value)}")
        elif position and arguments[position - 1] in ("--config", "-config"):
            found.append(_file(argument))
        else:
            found.append(argument)
    return found


def _file(value: str) -> str:
    name, colon, variant = value.partition(":")
    if name.endswith(".py"):
        return value
    folder = installed_configs()
    path = folder / f"{name}.py"
    if not path.is_file() or name.startswith("_"):
        there = ", ".join(sorted(one.stem for one in folder.glob("[!_]*.py")))
        sys.exit(f"--config is {name!r}; expected a file, or one of the experiments: {there}")
    return f"{path}{colon}{variant}"


def installed_configs() -> pathlib.Path:
    """The folder of the experiments that belong to this installation.

    Raises:
      SystemExit: it is gone.
    """
    spec = importlib.util.find_spec("configs")
    if spec is None or spec.origin is None:
        sys.exit("the package `configs` is missing: install mrd_jax again")
    return pathlib.Path(spec.origin).parent
