# SPDX-License-Identifier: Apache-2.0
"""What the README and the documentation name is there: files, modules, flags, fields, targets."""

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
    """Paths of the repository's files and folders, each with a slash before it."""
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


# What commands write, not what is here.
WRITTEN = ("benchmarks.md", "site/")
# A file of one of these types, or a folder; not those that a user makes.
PATH = re.compile(r"[\w/.-]+\.(?:py|md|tsv|sh|toml|ipynb)|(?!runs|data/|my_)[\w/-]+/")


@EVERY_PAGE
def test_paths_in_text_are_there(page):
    """A path may be short where the text says which folder it is in."""
    for piece in doc_pages.code(page):
        if PATH.fullmatch(piece) and piece not in WRITTEN:
            assert any(path.endswith(f"/{piece}") for path in files()), piece


def module(dotted):
    """The file of a module, None where there is none; nothing is imported."""
    path = ROOT.joinpath(*dotted.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((one for one in found if one.is_file()), None)


def resolve(dotted):
    """Whether a dotted name is a module, or something at the top of one, or in a class of it."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        if file := module(".".join(parts[:length])):
            return length == len(parts) or parts[length] in defined(file, parts[length + 1 :])
    return False


def defined(file, members):
    """Names at the top of a module; of its classes, those that have all the members."""
    names = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            own = {getattr(one, "name", None) for one in node.body}
            own |= {one.target.id for one in node.body if isinstance(one, ast.AnnAssign)}
            names |= {node.name} if set(members) <= own else set()
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).rpartition(".")[2] for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {one.id for one in targets if isinstance(one, ast.Name)}
    return names


DOTTED = re.compile(rf"(?<![\w/.-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+(?![\w/])")


@EVERY_PAGE
def test_dotted_names_in_text_are_there(page):
    for piece in doc_pages.code(page):
        for dotted in DOTTED.findall(piece):
            assert dotted in WRITTEN or resolve(dotted), dotted


def test_the_method_names_code_of_the_losses():
    named = [
        piece
        for piece in doc_pages.code(ROOT / "docs/method.md")
        if re.fullmatch(r"(?!config\.)[a-z_]+\.(?!py)[A-Za-z_]+", piece)
    ]
    assert len(named) > 20
    for piece in named:
        assert resolve(f"mrd_jax.losses.{piece.removeprefix('losses.')}"), piece


@EVERY_PAGE
def test_names_of_the_reference_are_there(page):
    for dotted in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE):
        assert resolve(dotted), dotted


@functools.cache
def fields(config):
    experiment = importlib.import_module(config.removesuffix(".py").replace("/", "."))
    return set(run_identity.flatten(experiment.get_config()))


@EVERY_PAGE
def test_fields_in_text_are_fields_of_a_config(page):
    known = fields("configs/quickstart.py") | fields("configs/benchmarks.py")
    for piece in doc_pages.code(page):
        for field in re.findall(r"(?:--)?\bconfig\.([a-z][\w.]*\w)", piece):
            groups = {name.rpartition(".")[0] for name in known}
            assert field in known | groups, field


@EVERY_PAGE
def test_targets_of_make_are_there(page):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    shell = [command for name, command in doc_pages.commands() if name == doc_pages.name(page)]
    for piece in [*doc_pages.code(page), *shell]:
        if piece.startswith("make "):
            assert piece.split()[1] in targets, piece


def source_of(program):
    """The text behind `-m MODULE` or FILE."""
    if program.endswith(".py"):
        return (ROOT / program).read_text("utf-8")
    file = module(f"{program}.__main__") or module(program)
    assert file is not None, f"no module {program}"
    return file.read_text("utf-8")


def split_at(mark, words):
    """Lists of the words between the marks."""
    return [list(some) for is_mark, some in itertools.groupby(words, mark.__eq__) if not is_mark]


def python_commands():
    """(page, program, arguments) of all that Python is asked to run, in blocks and in text."""
    found = []
    for page, command in doc_pages.commands():
        words = shlex.split(command)
        if words[0].endswith("python"):
            start = 2 if words[1] == "-m" else 1
            # Behind a -- are arguments of the run that the launcher starts.
            own, *rest = split_at("--", words[start + 1 :])
            found += [(page, words[start], own)] + [(page, "mrd_jax.main", one) for one in rest]
    for page in PAGES:
        for piece in doc_pages.code(page):
            if match := re.match(r"(?:\.venv/bin/)?python -m ([\w.]+)(.*)", piece):
                found.append((doc_pages.name(page), match[1], match[2].split()))
    return found


@pytest.mark.parametrize("page, program, arguments", python_commands())
def test_programs_and_their_flags_are_there(page, program, arguments):
    text = source_of(program)
    config = "configs/quickstart.py"
    for before, argument in itertools.pairwise(["", *arguments]):
        flag = argument.partition("=")[0]
        if before == "--config":
            config = argument.partition(":")[0]
        if flag.startswith("--config."):
            assert flag.removeprefix("--config.") in fields(config), flag
        elif flag.startswith("--"):
            # As argparse and as absl defines it.
            wanted = re.compile(rf"""["']{flag}["']|DEFINE_\w+\(\s*"{flag[2:]}\"""")
            assert wanted.search(text) or flag == "--config", f"{program} has no {flag}"


# Tags that make a browser fetch something of another host, but for the page's own address.
FETCHED = re.compile(
    r'<(?:script|img|link rel="?(?!canonical)[^>]*)[^>]*(?:src|href)="?(?:https?:)?//'
)


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    """`make docs`, which is strict; with --quiet mkdocs would not count its warnings."""
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = list(tmp_path.glob("**/*.html"))
    assert len(built) > len(list(ROOT.glob("docs/**/*.md")))
    assert not [path for path in built if FETCHED.search(path.read_text("utf-8"))]
