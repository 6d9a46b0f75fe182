# SPDX-License-Identifier: Apache-2.0
"""Estimates of a preparation, compared with sums by hand, and the file of measured rates."""

import json
import pathlib
import re

import pytest

from benchmarks import preparation_rates
from data_prep import estimate, published_rates, status_file

# Round rates; pictures cost 2 * 10^12 operations, texts a quarter of that.
RATES = {
    "shape_cpu_seconds": 0.5,
    "pictures_per_shape": 10,
    "captions_per_shape": 4,
    "picture_cpu_seconds": 0.001,
    "record_cpu_seconds": 0.01,
    "source_bytes": 1_000_000,
    "cache_bytes": 200_000,
    "feature_bytes": 40_000,
    "record_bytes": 100_000,
    "picture_flops": 2e12,
    "text_flops": 0.5e12,
}


@pytest.fixture
def rates(tmp_path):
    path = tmp_path / "rates.json"
    content = {"command": "x", "machine": "y", "date": "2026-01-01", "rates": RATES}
    path.write_text(json.dumps(content))
    return path


def run(rates, capsys, *flags):
    assert estimate.main(["--shapes", "90000", "--rates", str(rates), *flags]) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


def test_stages_are_divided_by_the_machines_that_work_on_them(rates, capsys):
    flags = ["--hosts", "5", "--cores", "20", "--devices", "4", "--price", "10"]
    flags += ["--pictures_per_second", "25", "--download_mb", "900"]
    flags += ["--disk_mb", "1000000"]
    result, text = run(rates, capsys, *flags)
    # 45,000 CPU seconds on 90 of 100 cores; 900,000 pictures and as much as 90,000 for texts, at 25
    # per second on 20 devices; 900 CPU seconds on the 20 cores of one host; 90 GB at 0.9 GB/s.
    assert result["seconds"] == {"download": 100, "shapes": 500, "features": 1980, "records": 45}
    assert result["hours"] == pytest.approx(2625 / 3600, abs=0.01)
    assert result["host_hours"] == pytest.approx(5 * 2625 / 3600, abs=0.1)
    assert result["cost"] == round(10 * 5 * 2625 / 3600)
    assert result["bytes"] == {
        "raw data": 90_000_000_000,
        "shape cache": 18_000_000_000,
        "features": 3_600_000_000,
        "records": 9_000_000_000,
    }
    assert set(result["bound_by"].values()) == {"network", "cores", "devices"}
    assert "measured: rates per shape and picture, by x (y, 2026-01-01)" in text
    assert "published" not in text and not result["published"]


def test_fast_devices_wait_for_the_preprocessing_of_pictures(rates, capsys):
    result, _ = run(
        rates, capsys, "--cores", "10", "--pictures_per_second", "10000", "--disk_mb", "1000"
    )
    assert result["seconds"]["features"] == 90  # 900 CPU seconds on 10 cores
    assert result["bound_by"]["features"] == "cores"
    assert "cost" not in result


def test_a_stage_takes_as_long_as_its_files_need(rates, capsys):
    result, _ = run(rates, capsys, "--disk_mb", "100", "--pictures_per_second", "10000")
    # 108, 21.6 and 30.6 GB are read and written at 0.1 GB/s.
    assert result["seconds"] == {"shapes": 1080, "features": 216, "records": 306}
    assert set(result["bound_by"].values()) == {"file system"}


def test_a_flag_replaces_a_measured_rate_and_is_reported(rates, capsys):
    result, _ = run(rates, capsys, "--cores", "10", "--shape_cpu_seconds", "0.9")
    assert result["seconds"]["shapes"] == 9000
    assert result["given"] == {"shape_cpu_seconds": 0.9}


def test_published_rates_are_used_and_named_with_their_sources(rates, capsys):
    flags = ["--devices", "1", "--device", "rtx4090", "--source", "objaverse", "--cores", "10000"]
    result, text = run(rates, capsys, *flags, "--file_system", "fsx_lustre_10tib")
    # 990,000 pictures, those for texts included; 12.5 MB of raw data per shape at 10 GB/s.
    assert result["seconds"]["features"] == round(990_000 / 149.04)
    assert result["bytes"]["raw data"] == 90_000 * 12_500_000
    assert result["seconds"]["shapes"] == round(90_000 * 12_700_000 / 10e9)
    assert "pro6000maxq" not in text and "4090-dynamo.csv" in text and "issue 12 (2024-07)" in text


def test_every_published_rate_has_a_source_a_date_and_its_scaling():
    for kind, number in published_rates.NUMBERS.items():
        for name, fields in published_rates.RATES[kind].items():
            assert set(fields) == {number, *published_rates.FIELDS}, name
            assert fields["source"] and re.fullmatch(r"20\d\d-\d\d", fields["date"]), name
    # A training step is three forward passes; multiply-adds of g/14 and bigG/14.
    for name, node in (("a100", 559), ("h100", 935)):
        found = published_rates.number("devices", name)
        assert found == pytest.approx(node / 8 * 3 * 267.18 / 483.96, abs=0.05)
        assert f"{node} / 8 samples" in published_rates.describe("devices", name)
    assert published_rates.number("file_systems", "filestore_zonal_10tib") == round(2600 * 1.048576)


def test_invalid_rates_and_numbers_are_rejected(tmp_path, capsys):
    path = tmp_path / "rates.json"
    path.write_text('{"rates": {"shape_cpu_seconds": 1}}')
    assert estimate.main(["--shapes", "1", "--rates", str(path)]) == 2
    assert "no measured rates (no pictures_per_shape, " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        estimate.main(["--shapes", "1", "--price", "nan"])
    assert "expected a number above 0, found 'nan'" in capsys.readouterr().err


def test_the_measured_rates_have_what_an_estimate_needs():
    content = estimate.read_rates()
    assert content["rates"].keys() == RATES.keys() | {"shapes"}
    assert content["command"].startswith("python -m benchmarks.preparation_rates")
    # 1.85 * 10^9 parameters of the image model at 257 tokens.
    assert content["rates"]["picture_flops"] == pytest.approx(2 * 1.85e9 * 257, rel=0.05)


def test_the_figures_of_the_documentation_are_those_of_the_command(capsys):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "large_scale.md").read_text("utf-8")
    commands = re.findall(r"-m data_prep\.estimate (--shapes [^\n]*)", page)
    rows = re.findall(r"^\| (\d+ host.*) \|$", page, re.MULTILINE)
    assert len(commands) == len(rows) == 3
    for command, row in zip(commands, rows, strict=True):
        assert estimate.main(command.split()) == 0
        result = json.loads(capsys.readouterr().out)
        assert row.split(" | ")[1:] == [
            *(status_file.format_seconds(result["seconds"][name]) for name in result["seconds"]),
            f"{result['hours']:g} h",
            f"{result['host_hours']:g}",
            f"{result['cost']:,}",
        ]
    sizes = " ".join(
        re.findall(r"([\d,]+ GB)", page.partition("Disk: ")[2].partition("The price")[0])
    )
    assert sizes == " ".join(f"{size / 1e9:,.0f} GB" for size in result["bytes"].values())
    assert estimate.read_rates()["machine"] in page.replace("\n", " ")


def test_pictures_are_timed_and_files_counted(tmp_path):
    from small_shapes import picture

    assert 0 < preparation_rates.time_preprocessing([picture("red", size=(224, 224))] * 4) < 1
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"123")
    assert preparation_rates.size(tmp_path) == 3
