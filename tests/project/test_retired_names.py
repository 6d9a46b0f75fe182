# SPDX-License-Identifier: Apache-2.0
"""Names that version 0.1.0 used, and words that the glossary replaces, do not come back."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Where an old name is allowed: it is mapped to the new one, or history tells of it.
ALLOWED = (
    "CHANGELOG.md",
    "mrd_jax/checkpoints/run_identity.py",
    "mrd_jax/data/corrupt_records.py",
    "mrd_jax/evaluation/history.py",
    "tests/data/test_corrupt_records.py",
    "tests/project/test_compatibility.py",
    "tests/project/test_mistakes.py",
    "tests/project/test_retired_names.py",
    "tests/training/test_validation.py",
)
MODULES = (
    *("card", "compiled", "console", "evaluators", "faults", "hosts", "initial", "layouts"),
    *("loop", "optimizer", "profiling", "sharding", "state", "step", "stored_variables"),
    *("suite", "train", "workdir"),
)
FIELDS = ("max_bad_steps", "stall_minutes", "stall_leaves", "damaged_records")
METRICS = ("train/total", "train/waiting_for_data", "train/waiting_process")
CLASSES = (
    *("PmapRunner", "ShardMapRunner", "make_runner", "DamagedError", "DamagedRecordError"),
    *("TooManyDamagedError", "NotFiniteError", "BadSteps", "StopRequest", "Replicated layout"),
)
# The glossary's retired words. "Runner" is also a test runner's name, "floor" a function's, so
# only unambiguous phrases are listed.
WORDS = (
    *("standstill", "stands still", "asked to leave", "complete or not at all"),
    *("computed anew", "numbers that are not finite", "what a device holds", "the two runners"),
    *("a pretended", "in reach", "without a word", "for whatever restarts it", "is a law"),
    *("import state as states", "import card as cards", "import plan as plans"),
    *("import encoder as encoders", "import index as indices", "held_out_lib"),
)


def texts() -> dict[str, str]:
    """Every tracked text file by its path."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    kinds = (".py", ".md", ".toml", ".yml", ".sh", ".html", ".js", ".ipynb", "Makefile")
    return {
        name: (ROOT / name).read_text("utf-8")
        for name in listed
        if name.endswith(kinds) and name not in ALLOWED and "vendor/" not in name
    }


def pattern(kind: str) -> re.Pattern:
    """Expression that finds the retired names of a kind."""
    if kind == "modules":
        names = "|".join(MODULES)
        forms = (rf"mrd_jax\.({names})\b", rf"mrd_jax/({names})(\.py|/)")
        imported = rf"from mrd_jax import (\w+, )*({names})\b"
        return re.compile("|".join([*forms, imported]))
    names = {"fields": FIELDS, "metrics": METRICS, "classes": CLASSES, "words": WORDS}[kind]
    flags = re.IGNORECASE if kind == "words" else 0
    return re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names), flags)


@pytest.mark.parametrize("kind", ["modules", "fields", "metrics", "classes", "words"])
def test_retired_names_do_not_occur(kind):
    wrong = [
        f"{name}:{text.count(chr(10), 0, found.start()) + 1}: {found[0]}"
        for name, text in texts().items()
        for found in pattern(kind).finditer(text)
    ]
    assert not wrong, "\n".join(wrong)
