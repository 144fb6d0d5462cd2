"""`make gpu`, as far as a CPU goes: parts run, fail, are skipped and are continued, and the summary says so."""

import argparse
import json
import sys
from itertools import chain

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import agreement, parts, resume, summary, throughput, two_processes
from distillkac import distill
from tests.places import ROOT
from tests.project.documented import Read, check_python


def part(name, code, **options):
    return parts.Part(name, f"the part {name}", ((sys.executable, "-c", code),), device="cpu", **options)


@pytest.fixture
def two_parts(monkeypatch, tmp_path):
    """One that counts its runs, and one that fails."""
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    made = [
        part("machine", count),
        part("tests", "raise SystemExit('a finding')"),
        part("ops", "", modules=("nowhere",)),
    ]
    monkeypatch.setattr(parts, "all_parts", lambda device, out: made)
    return tmp_path


def test_what_follows_a_contest_that_fails_is_run_where_all_shall_be(tmp_path):
    commands = [(sys.executable, "-c", code) for code in ("raise SystemExit(3)", f"open({str(tmp_path / 'x')!r}, 'w')")]
    for whole in (False, True):
        result = command.run(parts.Part("ops", "", tuple(commands), device="cpu", whole=whole), tmp_path, set())
        assert (result["status"], result["reason"]) == (command.FAILED, "exit status 3")
        assert (tmp_path / "x").exists() == whole


def test_a_summary_has_the_tables_of_its_device_alone():
    tables = "AMD EPYC, 2 cores; torch\n\n| a |\n\nNVIDIA H200; torch\n\n| b |"
    assert summary.tables_of("NVIDIA H200", tables) == "NVIDIA H200; torch\n\n| b |"
    assert summary.tables_of("NVIDIA L4", tables) == ""


def test_parts_are_run_kept_and_told(two_parts, capsys):
    words = ["--device", "cpu", "--out", str(two_parts / "out")]
    assert command.main(words) == 1
    told = capsys.readouterr().out
    assert "nowhere is not installed: parts that need it are skipped" in told
    assert "machine: passed" in told
    assert "tests: failed, exit status 1" in told
    text = (two_parts / "out" / "summary.md").read_text(encoding="utf-8")
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "skipped (needs nowhere" in text
    assert "a finding" in (two_parts / "out" / "tests.txt").read_text(encoding="utf-8")
    assert command.main(words) == 1
    assert "machine: passed before" in capsys.readouterr().out
    assert (two_parts / "count").read_text(encoding="utf-8") == "x"
    assert command.main([*words, "--again", "--only", "machine"]) == 0
    assert (two_parts / "count").read_text(encoding="utf-8") == "xx"
    assert command.main([*words, "--minutes", "0", "--only", "tests"]) == 1  # as it failed before
    assert "tests: not begun" in capsys.readouterr().out


def test_the_parts_are_those_of_the_help_and_fit_their_commands(tmp_path):
    for device in ("cpu", "cuda"):
        found = parts.all_parts(device, tmp_path)
        assert [one.name for one in found] == list(parts.NAMES)
        assert all(one.commands and one.title for one in found)
    gpu = {one.name: one.reason_to_skip() for one in parts.all_parts("cpu", tmp_path)}
    assert gpu["tests"] == gpu["sanitizer"] == "needs a GPU"
    assert gpu["methods"] == f"needs {tmp_path / 'digits' / 'ema.safetensors'}"
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing"])


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_command_of_a_part_is_taken_by_its_parser(device, tmp_path, monkeypatch):
    """In full size too, of which a CPU runs nothing: options that do not fit together are refused where they are read."""
    read = argparse.ArgumentParser.parse_args

    def only_read(*args, **kwargs):
        read(*args, **kwargs)
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_read)
    commands = list(chain.from_iterable(part.commands for part in parts.all_parts(device, tmp_path)))
    commands += [module.command(tmp_path / "run", module.STEPS[device]) for module in (resume, two_processes)]
    for python, _, module, *words in commands:
        assert python == sys.executable
        if module == "pytest":
            assert all((ROOT / word).exists() for word in words if word.startswith(("tests", "benchmarks")))
        elif module != "benchmarks.gpu.pages":  # which takes a folder, whatever its name
            check_python(["-m", module, *words])


def test_a_command_that_is_not_taken_is_found(tmp_path):
    """As `make gpu` once was: stages that are not those of the recipe, in a part that no CPU ran in full size."""
    with pytest.raises(pytest.fail.Exception, match="does not take runs/digits --recipe paper --stages 20,4,2,1"):
        check_python(["-m", "distillkac.distill", "runs/digits", "--recipe", "paper", "--stages", "20,4,2,1"])


@pytest.mark.slow
def test_every_distillation_in_full_size_goes_with_the_digits(run, tmp_path, capsys):
    for name, words in parts.METHODS.items():
        assert distill.main([str(run), "--out", str(tmp_path / name), "--dry-run", *words]) == 0, name
    assert capsys.readouterr().out.count("student") >= len(parts.METHODS)


def test_every_variant_of_the_throughput_is_a_training():
    for variant in throughput.VARIANTS:
        assert throughput.config(variant, "cuda").steps == throughput.STEPS


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="sees no GPU here; --device cpu runs the same script in small"):
        command.main([])


def test_agreement_is_measured_by_distance_and_fails_above_its_limit(monkeypatch, tmp_path, capsys):
    one = torch.tensor([1.0, -0.0, float("nan"), 2.0])
    two = torch.tensor([1.0 + 2**-23, 0.0, float("nan"), -2.0])
    assert agreement.distance(one, two).tolist()[:3] == [1, 0, 0]
    assert agreement.distance(one, two)[3] > 2**30
    out = tmp_path / "agreement-figures.json"
    monkeypatch.setattr(agreement, "SHAPES", ((3, 34),))
    monkeypatch.setattr(agreement, "RATES", ((9.0, 3.0),))
    assert agreement.main(["--device", "cpu", "--out", str(out)]) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 14
    assert {row[1] for row in rows} == {"0"}
    apart = [("kac_noise planar", torch.ones(2), torch.ones(2) + 2**-23), ("guided_step planar", one, one)]
    monkeypatch.setattr(agreement, "pairs", lambda device, shape: iter(apart))
    assert agreement.main(["--device", "cpu"]) == 1
    assert "more than 0 units of the last place apart: kac_noise planar\n" in capsys.readouterr().out
