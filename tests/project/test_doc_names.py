# SPDX-License-Identifier: Apache-2.0
"""Files, modules, flags, fields and make targets named in the documentation exist."""

import ast
import functools
import importlib
import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys

import doc_pages
import pytest
from doc_pages import PACKAGES, PAGES, ROOT

from mrd_jax.checkpoints import run_identity

EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=doc_pages.name)


@functools.cache
def files():
    """Returns the paths of all files and folders of the repository, with a leading slash."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [pathlib.PurePosixPath(path) for path in done.stdout.splitlines()]
    folders = {folder for path in listed for folder in path.parents}
    return {f"/{path}" for path in listed} | {f"/{folder}/" for folder in folders}


@EVERY_PAGE
def test_links_lead_to_files(page):
    for target in doc_pages.links(page):
        path = target.partition("#")[0]
        assert not path or (page.parent / path).exists(), target


# Written by commands, not in the repository.
WRITTEN = ("benchmarks.md", "site/")
# A file of one of these types, or a folder, except for those of a user.
PATH = re.compile(r"[\w/.-]+\.(?:py|md|tsv|sh|toml|ipynb)|(?!runs|data/|my_)[\w/-]+/")


@EVERY_PAGE
def test_paths_in_text_exist(page):
    """A path may be relative to any folder."""
    for piece in doc_pages.code(page):
        if PATH.fullmatch(piece) and piece not in WRITTEN:
            assert any(path.endswith(f"/{piece}") for path in files()), piece


def find_module(dotted):
    """Returns the file of a module without importing it; None if it does not exist."""
    path = ROOT.joinpath(*dotted.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def resolve(dotted):
    """Returns whether a dotted name is a module, a top-level name of one, or a class member."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        if file := find_module(".".join(parts[:length])):
            return length == len(parts) or parts[length] in defined(file, parts[length + 1 :])
    return False


def defined(file, members):
    """Returns the top-level names of a module; of its classes, those with all `members`."""
    names = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            own = {getattr(item, "name", None) for item in node.body}
            own |= {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
            names |= {node.name} if set(members) <= own else set()
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).rpartition(".")[2] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


DOTTED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?![\w/])")


@EVERY_PAGE
def test_dotted_names_in_text_exist(page):
    for piece in doc_pages.code(page):
        for dotted in DOTTED.findall(piece):
            assert dotted in WRITTEN or resolve(dotted), dotted


def test_method_names_functions_of_the_losses():
    named = [
        piece
        for piece in doc_pages.code(ROOT / "docs/method.md")
        if re.fullmatch(r"(?!config\.)[a-z_]+\.(?!py)[A-Za-z_]+", piece)
    ]
    assert len(named) > 20
    for piece in named:
        assert resolve(f"mrd_jax.losses.{piece.removeprefix('losses.')}"), piece


@EVERY_PAGE
def test_names_of_the_reference_exist(page):
    for dotted in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE):
        assert resolve(dotted), dotted


@functools.cache
def fields(config):
    experiment = importlib.import_module(config.removesuffix(".py").replace("/", "."))
    return set(run_identity.flatten(experiment.get_config()))


@EVERY_PAGE
def test_fields_in_text_are_config_fields(page):
    known = fields("configs/finetune.py") | fields("configs/benchmarks.py")
    for piece in doc_pages.code(page):
        for field in re.findall(r"(?:--)?\bconfig\.([a-z][\w.]*\w)", piece):
            groups = {name.rpartition(".")[0] for name in known}
            assert field in known | groups, field


@EVERY_PAGE
def test_make_targets_exist(page):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    shell = [command for name, command in doc_pages.commands() if name == doc_pages.name(page)]
    for piece in [*doc_pages.code(page), *shell]:
        if piece.startswith("make "):
            assert piece.split()[1] in targets, piece


# Program -> modules that define some of its flags.
FLAGS_OF = {
    "data_prep.build": ("data_prep.build_flags", "data_prep.selection", "data_prep.build_parser")
}
FLAGS_OF["data_prep.prepare"] = FLAGS_OF["data_prep.build"][:1]
FLAGS_OF["data_prep.merge"] = FLAGS_OF["data_prep.build"]
FLAGS_OF["benchmarks.gpu_parts"] = ("benchmarks.tpu_parts",)
FLAGS_OF["mrd_jax.tools.search"] = ("mrd_jax.tools.index_changes",)


def source_of(program):
    """Returns the source of `-m MODULE` or FILE, of a package with that of the modules in it."""
    if program.endswith(".py"):
        return (ROOT / program).read_text("utf-8")
    package = find_module(f"{program}.__main__")
    file = package or find_module(program)
    assert file is not None, f"no module {program}"
    files = sorted(file.parent.glob("*.py")) if package else [file]
    files += [find_module(module) for module in FLAGS_OF.get(program, ())]
    return "\n".join(path.read_text("utf-8") for path in files)


def split_at(separator, words):
    """Splits a list of words at a separator."""
    groups = itertools.groupby(words, separator.__eq__)
    return [list(group) for is_separator, group in groups if not is_separator]


def python_commands():
    """Returns (page, program, arguments) of all Python commands, in blocks and in text."""
    found = []
    for page, command in doc_pages.commands():
        words = shlex.split(command)
        if words[0].endswith("python"):
            start = 2 if words[1] == "-m" else 1
            # The launcher passes the arguments after -- to mrd_jax.main.
            own, *rest = split_at("--", words[start + 1 :])
            found += [(page, words[start], own)] + [(page, "mrd_jax.main", more) for more in rest]
    for page in PAGES:
        for piece in doc_pages.code(page):
            if match := re.match(r"(?:\.venv/bin/)?python -m ([\w.]+)(.*)", piece):
                found.append((doc_pages.name(page), match[1], match[2].split()))
    return found


@pytest.mark.parametrize("page, program, arguments", python_commands())
def test_programs_and_their_flags_exist(page, program, arguments):
    text = source_of(program)
    config = "configs/quickstart.py"
    for before, argument in itertools.pairwise(["", *arguments]):
        flag = argument.partition("=")[0]
        if before == "--config":
            config = argument.partition(":")[0]
        if flag.startswith("--config."):
            assert flag.removeprefix("--config.") in fields(config), flag
        elif flag.startswith("--"):
            # Defined with argparse or with absl.
            wanted = re.compile(rf"""["']{flag}["']|DEFINE_\w+\(\s*"{flag[2:]}\"""")
            assert wanted.search(text) or flag == "--config", f"{program} has no {flag}"


# Tags that make a browser fetch from another host, except for the page's canonical address.
FETCHED = re.compile(
    r'<(?:script|img|link rel="?(?!canonical)[^>]*)[^>]*(?:src|href)="?(?:https?:)?//'
)


def test_site_builds_without_warnings_and_fetches_nothing(tmp_path):
    """As `make docs`, which is strict; with --quiet, mkdocs would not count warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = list(tmp_path.glob("**/*.html"))
    assert len(built) > len(list(ROOT.glob("docs/**/*.md")))
    assert not [path for path in built if FETCHED.search(path.read_text("utf-8"))]
