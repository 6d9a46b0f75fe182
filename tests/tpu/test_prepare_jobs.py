# SPDX-License-Identifier: Apache-2.0
"""The job files of scripts/cluster that prepare data."""

import os
import pathlib
import subprocess

import pytest
import yaml

from data_prep import build

CLUSTER = pathlib.Path(__file__).parents[2] / "scripts" / "cluster"


def test_tasks_of_a_slurm_array_prepare_different_parts_of_the_same_number(tmp_path):
    parts = []
    for task in (1, 2, 3):
        variables = {"ID": task, "MIN": 1, "COUNT": 3}
        environment = {f"SLURM_ARRAY_TASK_{name}": str(n) for name, n in variables.items()}
        done = subprocess.run(
            ["bash", CLUSTER / "prepare.sbatch", "--source", "objaverse", "--input", "a b"],
            env=os.environ | environment | {"PYTHON": "echo"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        parts.append(done.stdout.split())
    assert [words[-2:] for words in parts] == [["--part", f"{index}/3"] for index in range(3)]
    assert parts[0][:6] == ["-m", "data_prep.build", "--source", "objaverse", "--input", "a"]


@pytest.mark.parametrize("index", ["0", "9"])
def test_pods_of_the_indexed_job_prepare_one_part_each(index, tmp_path):
    job = yaml.safe_load((CLUSTER / "prepare.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (variable,) = [each for each in container["env"] if each["name"] == "PART"]
    path = variable["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert container["command"] == ["python", "-m", "data_prep.build"]
    (mount,) = container["volumeMounts"]
    (tmp_path / "cap3d.csv").write_text("uid,a chair\n")
    arguments = [argument.replace("$(PART)", index) for argument in container["args"]]

    options = build.parse_options([a.replace(mount["mountPath"], str(tmp_path)) for a in arguments])

    part = options.execution.part
    assert (part.index, part.count) == (int(index), job["completions"])
    for place in (options.input, options.output, options.captions[0].path):
        assert place.is_relative_to(tmp_path)
    (failure, ignored) = job["podFailurePolicy"]["rules"]
    assert failure["onExitCodes"]["values"] == [2] and failure["action"] == "FailJob"
    assert ignored["action"] == "Ignore"
