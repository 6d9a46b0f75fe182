# SPDX-License-Identifier: Apache-2.0
"""Prints a script that completes commands, options and choices of `mrd-jax` in a shell.

python -m mrd_jax.tools.completion bash

Install it once; a new shell then completes with the tab key:

  bash  mrd-jax completion bash > ~/.local/share/bash-completion/completions/mrd-jax
  zsh   mrd-jax completion zsh > ~/.zfunc/_mrd-jax, with ~/.zfunc in fpath before compinit
  fish  mrd-jax completion fish > ~/.config/fish/completions/mrd-jax.fish

Print it again after an update of mrd_jax.
"""

import argparse
import ast
import dataclasses
import importlib
import shlex
import sys
from collections.abc import Iterator, Sequence

from mrd_jax.cli import command, console, names


@dataclasses.dataclass(frozen=True)
class Entry:
    """What may follow a command.

    Attributes:
      words: command, such as ("train",) or ("search", "find").
      options: choices by option; () if the values of an option are free, or it has none.
      positionals: choices of positional arguments: names of subcommands, for example.
    """

    words: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    positionals: tuple[str, ...] = ()


def entries() -> list[Entry]:
    """Returns the entries of all commands and of their subcommands, from their parsers."""
    found: list[Entry] = []
    for name, module in names.COMMANDS.items():
        options = absl_options(names.source(module))
        if options:
            found.append(Entry((name,), options))
        else:
            place = importlib.import_module(module)
            if hasattr(place, "__path__"):
                place = importlib.import_module(f"{module}.__main__")
            found.extend(of_parser((name,), command.parser_of(place.main)))
    return found


def of_parser(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[Entry]:
    """Yields the entry of an argparse parser, and those of its subcommands.

    Args:
      words: command that the parser belongs to.
      parser: parser of its arguments.
    """
    options, positionals = {}, ()
    # argparse has no public list of the arguments.
    for action in parser._actions:
        choices = tuple(map(str, action.choices or ()))
        options |= {name: choices for name in action.option_strings if name.startswith("--")}
        positionals += () if action.option_strings else choices
    yield Entry(words, options, positionals)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from of_parser((*words, name), child)


def absl_options(text: str) -> dict[str, tuple[str, ...]]:
    """Returns the choices by option of a module that defines absl flags; empty for other modules.

    The source is read and not imported: absl has one set of flags per process, and the flags of two
    commands have the same names.

    Args:
      text: source of the module.
    """
    options: dict[str, tuple[str, ...]] = {}
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        kind, arguments = node.func.attr, node.args
        if kind.startswith("DEFINE_") and isinstance(arguments[0], ast.Constant):
            choices = ()
            if kind == "DEFINE_enum":
                choices = tuple(ast.literal_eval(arguments[2]))
            elif kind == "DEFINE_config_file":
                choices = tuple(console.experiments())
            options[f"--{arguments[0].value}"] = choices
    return options | {"--help": ()} if options else {}


def bash(found: Sequence[Entry]) -> str:
    """Returns the script for bash.

    Args:
      found: entries of all commands.
    """
    return "\n".join(
        [
            "_mrd_jax() {",
            "  local current=${COMP_WORDS[COMP_CWORD]} words=",
            "  local key=${COMP_WORDS[1]} before=${COMP_WORDS[COMP_CWORD-1]}",
            *_cases(found, subcommand="${COMP_WORDS[2]}", position="$COMP_CWORD", first=1),
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            # Without a match, bash completes names of files.
            "complete -o default -F _mrd_jax mrd-jax",
        ]
    )


def zsh(found: Sequence[Entry]) -> str:
    """Returns the script for zsh.

    Args:
      found: entries of all commands.
    """
    return "\n".join(
        [
            "#compdef mrd-jax",
            "_mrd_jax() {",
            "  local choices=$words[2] key=$words[2] before=$words[CURRENT-1] line=($words)",
            "  local words=",
            *_cases(found, subcommand="$line[3]", position="$CURRENT", first=2),
            "  compadd -- ${=words}",
            "  _files",
            "}",
            "compdef _mrd_jax mrd-jax",
        ]
    )


def _cases(found: Sequence[Entry], *, subcommand: str, position: str, first: int) -> Iterator[str]:
    """Yields the lines that set `words` to what may follow, in the syntax of bash and zsh.

    Args:
      found: entries of all commands.
      subcommand: expression for the second word after `mrd-jax`.
      position: expression for the position of the word that is completed.
      first: position of the first word after `mrd-jax`.
    """
    deeper = [" ".join(entry.words) for entry in found if len(entry.words) > 1]
    patterns = "|".join(map(shlex.quote, deeper))
    yield f'  if [[ {position} -eq {first} ]]; then words="{" ".join(names.COMMANDS)}"; else'
    if deeper:
        yield f'  if [[ {position} -gt {first + 1} ]]; then case "$key {subcommand}" in'
        yield f'    {patterns}) key="$key {subcommand}";;'
        yield "  esac; fi"
    yield '  case "$key $before" in'
    for entry in found:
        for option, choices in entry.options.items():
            if choices:
                yield f'    "{" ".join(entry.words)} {option}") words="{" ".join(choices)}";;'
    yield '    *) case "$key" in'
    for entry in found:
        words = " ".join([*entry.positionals, *entry.options])
        yield f'      "{" ".join(entry.words)}") words="{words}";;'
    yield "    esac;;"
    yield "  esac; fi"


def fish(found: Sequence[Entry]) -> str:
    """Returns the script for fish.

    Args:
      found: entries of all commands.
    """
    lines = []
    for entry in found:
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in entry.words)
        if len(entry.words) == 1:
            lines.append(f"complete -c mrd-jax -n __fish_use_subcommand -f -a {entry.words[0]}")
        if entry.positionals:
            lines.append(f"complete -c mrd-jax -n '{seen}' -a '{' '.join(entry.positionals)}'")
        for option, choices in entry.options.items():
            values = f" -x -a '{' '.join(choices)}'" if choices else ""
            lines.append(f"complete -c mrd-jax -n '{seen}' -l {option[2:]}{values}")
    return "\n".join(lines)


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.completion")
    parser.add_argument("shell", choices=SHELLS, help="shell that the script is for")
    shell = parser.parse_args(arguments).shell
    print(SHELLS[shell](entries()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
