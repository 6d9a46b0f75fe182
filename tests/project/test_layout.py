# SPDX-License-Identifier: Apache-2.0
"""Dependencies run one way."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Search, its page and command lines join the two halves: an encoder of mrd_jax reads files as
# data_prep reads them. Nothing else imports them, so no other part comes to need data_prep.
JOINTS = ("mrd_jax/demo", "mrd_jax/search", "mrd_jax/tools")
JOINTS_MAY_USE = ("data_prep", "mrd_jax.demo", "mrd_jax.search")
# Reads the pickles of PyTorch, from an optional extra and inside a function.
READER_OF_PICKLES = ROOT / "mrd_jax/convert/files.py"
# Package or module -> what it must not import.
FORBIDDEN = {
    "mrd_jax": (
        *("data_prep", "configs", "benchmarks", "tests"),
        *("mrd_jax.demo", "mrd_jax.search", "mrd_jax.tools"),
        *("transformers", "torch", "trimesh"),
    ),
    "mrd_jax/search": ("mrd_jax.demo",),
    "mrd_jax/tools": ("mrd_jax.demo",),
    "data_prep": ("configs", "benchmarks", "tests"),
    "mrd_jax/losses": (
        "mrd_jax.models",
        "mrd_jax.data",
        "mrd_jax.training.train",
        "mrd_jax.training.step",
    ),
    "mrd_jax/models": (
        "mrd_jax.losses",
        "mrd_jax.data",
        "mrd_jax.training.train",
        "mrd_jax.training.step",
    ),
    "mrd_jax/data": (
        "mrd_jax.losses",
        "mrd_jax.models",
        "mrd_jax.training.train",
        "mrd_jax.training.step",
    ),
    "mrd_jax/distributed/processes.py": ("mrd_jax",),
    "mrd_jax/distributed/fsdp.py": ("mrd_jax",),
    "mrd_jax/training/step.py": (
        "mrd_jax.training.train",
        "mrd_jax.distributed.backends",
        "mrd_jax.evaluation.evaluator",
    ),
    "mrd_jax/evaluators": (
        "mrd_jax.losses",
        "mrd_jax.models",
        "mrd_jax.training.train",
        "mrd_jax.evaluation.benchmark",
        "jax",
        "flax",
    ),
    "mrd_jax/suite": ("mrd_jax.losses", "mrd_jax.training.train", "mrd_jax.evaluation.evaluator"),
    "configs": ("mrd_jax", "data_prep"),
}
# What data_prep may use of mrd_jax: the batch contract, and the application of weight tables.
DATA_PREP_MAY_USE = ("mrd_jax.data", "mrd_jax.convert.rules")


def imports(path):
    """Names that a file imports, whether or not it needs them at run time."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(place):
    path = ROOT / place
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("place", FORBIDDEN)
def test_nothing_imports_against_the_stream(place):
    found = files(place)
    assert found, f"{place} has no Python files"
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in found
        for name in imports(path)
        for forbidden in FORBIDDEN[place]
        if f"{name}.".startswith(f"{forbidden}.")
        and not (
            forbidden in JOINTS_MAY_USE
            and any(path.is_relative_to(ROOT / joint) for joint in JOINTS)
        )
        and not (forbidden == "torch" and path == READER_OF_PICKLES)
    ]
    assert not wrong


def test_data_prep_shares_only_the_data_contract():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files("data_prep")
        for name in imports(path)
        if name.startswith("mrd_jax") and not name.startswith(DATA_PREP_MAY_USE)
    ]
    assert not wrong


def test_only_the_teachers_import_transformers():
    wrong = [
        str(path.relative_to(ROOT))
        for path in files("data_prep")
        if any(name.split(".")[0] == "transformers" for name in imports(path))
        and "teachers" not in path.parts
    ]
    assert not wrong
