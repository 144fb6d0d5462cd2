"""`evaluate --metrics fid kid precision-recall`: what is measured, warned of and refused, alone and as two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillkac import data, evaluate
from distillkac.base import files
from distillkac.evaluation import fidelity, inception, shares
from distillkac.runs.run import open_run
from distillkac.runs.sampling import SamplerConfig, class_labels, generate
from tests.evaluation.stand_in import Stand
from tests.places import ROOT
from tests.toys import refusal


def test_the_command_warns_before_it_generates(torchmetrics, run, stand_in, monkeypatch):
    monkeypatch.setattr(shares, "generate", lambda *a, **k: (_ for _ in ()).throw(ValueError("generated")))
    with pytest.warns(UserWarning, match="FID of 5 generated and 500 real images: fewer than 6"):
        assert evaluate.main([str(run), "--metrics", "fid", "--num", "5", "--teacher-steps", "1"]) == 1


@pytest.fixture
def run(digits_run):
    return digits_run


@pytest.fixture
def stand_in(monkeypatch):
    extractor = Stand("abc")
    monkeypatch.setattr(inception, "find_weights", lambda choice: Path("weights.pth"))
    monkeypatch.setattr(inception, "load_inception", lambda path: extractor)
    return extractor


ALL = ["--metrics", "fid", "kid", "precision-recall"]


def test_command_measures_what_was_generated(torchmetrics, run, stand_in, capsys):
    options = [str(run), *ALL, "--num", "70", "--teacher-steps", "3", "--w", "0", "--batch-size", "16", "--seed", "5"]
    assert evaluate.main(options) == 0
    report = files.read_json(run / "fidelity-w-0.json")
    teacher, student = report["rows"]
    assert (teacher["name"], teacher["steps"], teacher["nfe"], teacher["w"]) == ("teacher", 3, 3, 0)
    assert (student["name"], student["steps"], student["nfe"]) == ("student-2", 2, 2)
    protocol = report["protocol"]
    assert protocol["extractor_sha256"] == "abc"
    assert "500 images of the test split" in protocol["reference"]
    assert (protocol["seed"], protocol["batch_size"], protocol["neighbours"]) == (5, 16, 3)
    text = capsys.readouterr().out
    for value in protocol.values():
        assert str(value) in text
    assert "FID" in text
    # The same by hand, all images at once.
    loaded = open_run(run, torch.device("cpu"))
    images = generate(loaded, class_labels(loaded.config, 70), SamplerConfig(steps=3), 5).images
    test = data.load(loaded.config.data, "test")
    real, generated = (Stand()(fidelity.to_rgb8(x)) for x in (test.__getitems__(range(500))[0], images))
    assert teacher["fid"] == pytest.approx(fidelity.fid(generated, real), rel=1e-4)
    assert teacher["kid"] == pytest.approx(fidelity.kid(generated, real, 5)[0], rel=1e-3)
    assert teacher["recall"] == fidelity.precision_recall(generated, real)["recall"]
    assert not (run / "evaluation.json").exists()


def test_guided_evaluations_count_twice_and_train_is_asked_for(torchmetrics, run, stand_in):
    options = [str(run), "--metrics", "fid", "--num", "20", "--teacher-steps", "4", "--w", "1.5"]
    assert evaluate.main([*options, "--reference", "train", "--reference-num", "64"]) == 0
    report = files.read_json(run / "fidelity-w-1.5.json")
    assert (report["rows"][0]["nfe"], report["rows"][0]["w"]) == (8, 1.5)
    assert "kid" not in report["rows"][0]
    assert not {"kid", "neighbours"} & set(report["protocol"])
    assert "64 images of the train split" in report["protocol"]["reference"]


def test_mistakes_are_explained(run, stand_in, monkeypatch, capsys):
    pytest.importorskip("torchmetrics")
    for options, message in (
        (["--num", "3", *ALL], "k must lie in [1, 2]"),
        (["--metrics"], "metrics must name at least one of classifier, fid"),
        (["--reference-num", "1", *ALL], "reference_num must be at least 2"),
    ):
        assert message in refusal(evaluate, [str(run), *options], capsys)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.image", None)
    assert evaluate.main([str(run), *ALL]) == 1
    assert "pip install 'distillkac[eval]'" in capsys.readouterr().err


TWO = """
import sys
from pathlib import Path
from distillkac import evaluate
from distillkac.evaluation import inception
from tests.evaluation.stand_in import Stand
inception.find_weights = lambda choice: Path("weights.pth")
inception.load_inception = lambda path: Stand("abc")
sys.exit(evaluate.main(sys.argv[1:]))
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares processes on a CPU")
def test_two_processes_measure_as_one(torchmetrics, run, stand_in, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO)
    options = [str(run), *ALL, "--num", "41", "--teacher-steps", "2", "--reference-num", "77"]
    assert evaluate.main(options) == 0
    one = files.read_json(run / "fidelity.json")
    (run / "reference-test.safetensors").unlink()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--", str(script), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(launch, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two = files.read_json(run / "fidelity.json")
    assert two["protocol"] == one["protocol"] | {"processes": 2}
    for first, second in zip(one["rows"], two["rows"], strict=True):
        for name in ("fid", "kid", "precision", "recall", "density", "coverage", "nfe"):
            assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-6), name
