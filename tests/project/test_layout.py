# SPDX-License-Identifier: Apache-2.0
"""Imports run one way: between folders, between files, and between packages.

`python tests/project/test_layout.py` prints the graph of the folders.
"""

import ast
import collections
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Folders and files directly under mrd_jax/, in the order in which they may import: each imports
# only entries of lines above its own. data_prep stands where only the lines below may import it.
ORDER = (
    ("storage",),
    ("transfer", "hub", "locking"),
    ("cli", "atomic_io", "pages"),
    ("kernels", "losses", "data"),
    ("distributed",),
    ("models",),
    ("checkpoints",),
    ("convert", "encoder"),
    ("evaluation",),
    ("report",),
    ("training",),
    ("analysis", "finetuning"),
    ("data_prep",),
    ("selfcheck", "search"),
    ("demo", "library"),
    ("tools",),
    ("main",),
)
# data_prep uses the data contract, weight tables, paths, writes and what command lines share, and
# the blocks that Uni3D has in common with the image towers of EVA-CLIP.
DATA_PREP_MAY_USE = (
    "mrd_jax.atomic_io",
    "mrd_jax.cli",
    "mrd_jax.convert.layers",
    "mrd_jax.convert.rules",
    "mrd_jax.convert.uni3d",
    "mrd_jax.data",
    "mrd_jax.locking",
    "mrd_jax.models.rotary",
    "mrd_jax.models.transformer",
    "mrd_jax.pages",
    "mrd_jax.storage",
    "mrd_jax.transfer",
)
# Package or file -> what it must not import, from anywhere in it.
FORBIDDEN = {
    "mrd_jax": ("configs", "benchmarks", "tests", "transformers", "trimesh"),
    "data_prep": ("configs", "benchmarks", "tests"),
    "configs": ("mrd_jax", "data_prep"),
    # Numpy only: metrics can be checked by hand.
    "mrd_jax/evaluation/metrics": ("jax", "flax"),
}


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    """File of every module of mrd_jax and data_prep, by its dotted name."""
    found = {}
    for package in ("mrd_jax", "data_prep"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def names_imported(path: pathlib.Path) -> set[str]:
    """Dotted names that a file imports, at any place in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@functools.cache
def modules_imported(name: str) -> frozenset[str]:
    """Modules of this project that a module imports."""
    found = set()
    for imported in names_imported(modules()[name]):
        parent = imported.rpartition(".")[0]
        found |= {imported} if imported in modules() else {parent} & modules().keys()
    return frozenset(found - {name, "mrd_jax", "data_prep"})


def folder(name: str) -> str:
    """Entry of `ORDER` that a module belongs to; "" for the package itself."""
    package, _, rest = name.partition(".")
    return package if package == "data_prep" else rest.partition(".")[0]


def folder_graph() -> dict[str, set[str]]:
    """Folders that each folder imports."""
    graph = collections.defaultdict(set)
    for name in modules():
        graph[folder(name)] |= {folder(other) for other in modules_imported(name)}
    return {name: others - {name} for name, others in graph.items() if name}


def test_folders_import_only_folders_above_them_in_the_order():
    rank = {name: line for line, names in enumerate(ORDER) for name in names}
    graph = folder_graph()
    assert graph.keys() == rank.keys()
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if rank[other] >= rank[name] and name != "data_prep"
    ]
    assert not wrong


def test_data_prep_uses_only_the_shared_parts_of_mrd_jax():
    wrong = [
        f"{name} imports {imported}"
        for name, path in modules().items()
        if name.startswith("data_prep")
        for imported in names_imported(path)
        if imported.startswith("mrd_jax") and not f"{imported}.".startswith(DATA_PREP_MAY_USE)
    ]
    assert not wrong


def test_no_file_imports_itself_through_others():
    """Depth-first search; a module that is met again on the current path closes a cycle."""
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(modules_imported(name)):
            # The package's __init__ re-exports its modules, and they do not import it.
            visit(other)
        path.pop()
        done.add(name)

    for name in modules():
        visit(name)


@pytest.mark.parametrize("place", FORBIDDEN)
def test_packages_do_not_import_what_they_must_not_need(place):
    files = sorted((ROOT / place).rglob("*.py"))
    assert files, f"{place} has no Python files"
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in names_imported(path)
        if f"{name}.".startswith(tuple(f"{forbidden}." for forbidden in FORBIDDEN[place]))
    ]
    assert not wrong


@pytest.mark.parametrize("package, allowed", [("transformers", "teachers"), ("torch", "convert")])
def test_optional_frameworks_are_imported_in_one_place(package, allowed):
    wrong = [
        name
        for name, path in modules().items()
        if any(f"{one}.".startswith(f"{package}.") for one in names_imported(path))
        and allowed not in path.parts
    ]
    assert not wrong


if __name__ == "__main__":
    for line in ORDER:
        for name in line:
            print(f"{name:12} imports {', '.join(sorted(folder_graph()[name])) or 'nothing'}")
