# SPDX-License-Identifier: Apache-2.0
"""One module decides what a path is, and no other opens a user's path by itself."""

import pathlib
import re
import subprocess
import sys

import pytest

from mrd_jax import storage
from mrd_jax.tools import verify

ROOT = pathlib.Path(__file__).parents[2]

# What a path of a user must not meet outside `mrd_jax.storage` and `mrd_jax.transfer`.
OWN_WAYS = re.compile(
    r"\bpathlib\b|(?<![.\w])Path\(|(?<![.\w])open\(|\.absolute\(\)|memmap|mmap_mode|np\.load\("
    r"|epath\.Path\(|os\.path\.|type=Path"
)
# Files of mrd_jax that may, since their paths are not a user's, or are local by their nature.
EXCEPTIONS = {
    "storage.py": "decides what a path is",
    "transfer.py": "copies between this machine and buckets",
    "atomic_io.py": "temporary files on this machine",
    "cli/console.py": "experiments that are installed with the package",
    "cli/flag_parsing.py": "--config, a Python file",
    "cli/logs.py": "devices of this machine",
    "convert/files.py": "PyTorch checkpoints, which torch maps into memory",
    "distributed/gpus.py": "files of the driver",
    "evaluation/benchmark/published.py": "file of the package",
    "training/trackers.py": "files that Weights & Biases keeps on this machine",
    "tools/reproduce.py": "released files on this machine",
}
# Folders and prefixes that read meshes and write temporary files on this machine only.
LOCAL = ("demo/", "search/", "tools/embed", "tools/index", "tools/inspect", "tools/search")
LOCAL += ("library/", "tools/classify", "selfcheck/", "tools/selfcheck")


# Files of data_prep whose paths may be in a bucket.
REMOTE = ("verify.py", "checks.py", "uploading.py")


def own_ways():
    """Returns the lines of each module that open paths by themselves."""
    files = sorted((ROOT / "mrd_jax").rglob("*.py"))
    files += [ROOT / "data_prep" / name for name in REMOTE]
    return {
        file.relative_to(ROOT).as_posix().removeprefix("mrd_jax/"): lines
        for file in files
        if (lines := [x for x in file.read_text("utf-8").splitlines() if OWN_WAYS.search(x)])
    }


def test_no_other_module_opens_the_path_of_a_user():
    others = own_ways().keys() - EXCEPTIONS.keys()
    assert not [name for name in others if not name.startswith(LOCAL)]


@pytest.mark.parametrize(
    "folder", ["training", "checkpoints", "evaluation", "report", "encoder", "data", "distributed"]
)
def test_local_folders_and_buckets_share_every_line_of_a_run(folder):
    """Only the modules of paths and files ask where a file is."""
    files = (ROOT / "mrd_jax" / folder).rglob("*.py")
    # The compilation cache is not a path of the run.
    sources = [file.read_text("utf-8") for file in files if file.stem != "compilation_cache"]
    assert sources and not any("is_remote" in text or "BUCKETS" in text for text in sources)


def test_every_exception_is_needed():
    assert EXCEPTIONS.keys() <= own_ways().keys()


@pytest.mark.parametrize("package", ["mrd_jax", "data_prep"])
def test_every_path_on_a_command_line_is_checked(package):
    unchecked = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for line in file.read_text("utf-8").splitlines()
        if re.search(r"type=(pathlib\.|epath\.)?Path\b", line)
    ]
    assert not unchecked


def test_local_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for given in ("runs/x", "./runs/x", tmp_path / "runs" / "x", storage.path("runs/x")):
        assert str(storage.path(given)) == f"{tmp_path}/runs/x"
    assert not storage.is_remote(storage.path("runs/x"))


def test_urls_of_buckets_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(storage, "_has_gcsfs", lambda: True)
    for given in ("gs://b/runs/x", "gs://b/runs/x/", storage.path("gs://b/runs/x")):
        assert str(storage.path(given)) == "gs://b/runs/x"
    assert storage.is_remote(storage.path("gs://b") / "runs")


@pytest.mark.parametrize("given", ["/gs/b/run", pathlib.Path("/gs/b/run"), "/gs/b/../b/run"])
def test_a_folder_that_epath_takes_for_a_bucket_is_rejected(given):
    with pytest.raises(ValueError, match=r"local folder below /gs/ cannot .* mount it elsewhere"):
        storage.path(given)


def test_a_relative_path_below_such_a_folder_is_rejected(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "absolute", lambda self: pathlib.Path("/gs/b", self))
    with pytest.raises(ValueError, match="write gs://b/run;"):
        storage.path("run")


@pytest.mark.parametrize("given", ["s3://b/run", "az://b/run", "hf://b/run", "https://b/run"])
def test_other_object_stores_are_rejected_by_name(given):
    scheme = given.partition(":")[0]
    with pytest.raises(ValueError, match=f"{scheme}:// is not supported: a checkpoint would not"):
        storage.path(given)


@pytest.mark.parametrize("given", ["gs://", "gs:///run", "gs:/b/run", pathlib.Path("gs://b/run")])
def test_a_url_without_a_bucket_is_rejected(given):
    with pytest.raises(ValueError, match="names no bucket; expected gs://BUCKET/NAME"):
        storage.path(given)


def test_the_reason_reaches_the_user_of_a_command(capsys):
    with pytest.raises(SystemExit) as status:
        verify.main(["s3://b/run"])
    assert status.value.code == 2
    assert "error: argument paths: 's3://b/run': expected a local path or gs://" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("given", ["gs://b/raw", pathlib.Path("gs://b/raw"), "s3://b/raw"])
def test_raw_data_must_be_local(given):
    with pytest.raises(ValueError, match="expected a local path; copy it to this machine first"):
        storage.local_path(given)


def test_without_gcsfs_a_run_ends_at_once_and_names_the_extra():
    code = (
        "import sys; sys.modules['gcsfs'] = None\n"
        "from mrd_jax import storage; storage._has_gcsfs = lambda: False\n"
        "from mrd_jax import main; main.run()"
    )
    flags = ["--config=configs/quickstart.py", "--workdir=gs://bucket/run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert 'gcsfs is missing: run pip install "mrd_jax[gcs]"' in done.stderr.splitlines()[0]
