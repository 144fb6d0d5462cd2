"""The same images have the same figures on any machine: shipped classifiers, what rounding does to them, who they are."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distillkac import compare, report
from distillkac.base import files
from distillkac.data import DataConfig, ImageDataset, load, read
from distillkac.evaluation import classifier, comparison_report, evaluators
from distillkac.evaluation.evaluators import make
from distillkac.evaluation.metrics import Evaluator
from distillkac.evaluation.moments import SplitMoments
from tests.commands.test_compare import TINY
from tests.places import ROOT

SETS = ("digits", "patches")
# What torch's own kernels may round differently by: vector units, oneDNN's, threads.
LEVELS = (
    {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
    },
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
)


def splits(name="digits", **changes):
    return [load(DataConfig(builtin=name, **changes), split) for split in ("train", "test")]


@pytest.fixture(scope="module")
def digits():
    return Evaluator(*splits())


@pytest.fixture
def untrained(monkeypatch):
    """Nothing may be trained."""
    monkeypatch.setattr(classifier, "train_classifier", lambda data: pytest.fail("a classifier was trained"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(classifier, "steps_for", lambda count: 2)


# ------------------------------------------------------------------------------------------------------------- rounding


def pictures() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images near the data and far from them: new-like, means of a class (a teacher in one step), noise, one grey level."""
    x, y = read(load(DataConfig(), "train"), range(400))
    source = np.random.Generator(np.random.Philox(7))
    noise = torch.from_numpy(source.standard_normal(x.shape, dtype=np.float32))
    means = torch.stack([x[y == k].mean(0) for k in range(10)])[y]
    return {
        "near": (x + 0.1 * noise, y),
        "means": (means + 0.02 * noise, y),
        "noise": (noise, y),
        "grey": (0.001 * noise, y),
    }


PROGRAM = """
import json, sys, torch
from tests.evaluation import test_evaluators as this
print(json.dumps(this.measured(torch.load(sys.argv[1]))))
"""


def measured(images) -> dict:
    """Figures of the digits' evaluator, and the moments of the digits; features of the patches' classifier (all their figures
    take a minute); the digest of one trained here."""
    evaluator = Evaluator(*splits())
    result = {key: evaluator(*value) for key, value in images.items()}
    moments = SplitMoments.measured(evaluator.classifier, *splits()).tensors()
    result |= {
        name: {str(i): number for i, number in enumerate(value.flatten().tolist())} for name, value in moments.items()
    }
    weights = {k: v.double() for k, v in load_file(evaluators.FOLDER / "patches.safetensors").items()}
    colour = classifier.Classifier((3, 32, 32), 2).eval()
    colour.load_state_dict(weights)
    x = torch.from_numpy(np.random.Generator(np.random.Philox(8)).random((6, 3, 32, 32), dtype=np.float32)) * 2 - 1
    with torch.no_grad():
        result["patches"] = {str(i): value for i, value in enumerate(colour.features(x).flatten().tolist())}
    classifier.STEPS = 40
    noise = [small(count=60, seed=seed) for seed in (0, 1)]
    result["trained"] = classifier.fresh(*noise, classifier.fingerprint_of(*noise)).digest
    return result


def small(count=12, seed=0):
    x = np.random.Generator(np.random.Philox(seed)).random((count, 1, 8, 8), dtype=np.float32) * 2 - 1
    return ImageDataset(torch.from_numpy(x), torch.arange(count) % 2, ("a", "b"))


@pytest.fixture(scope="module")
def here():
    images, before = pictures(), classifier.STEPS
    result = measured(images)
    classifier.STEPS = before
    return images, result


def check(found: dict, wanted: dict) -> None:
    assert found["trained"] == wanted["trained"], "a classifier trained at another level has another digest"
    for name in wanted.keys() - {"trained"}:
        for key, value in wanted[name].items():
            # Pixel distances are float32; 1e-6 is a thousandth of what is promised.
            bar = 1e-6 if key in ("diversity", "nn_ratio") else 1e-9
            assert found[name][key] == pytest.approx(value, rel=bar), f"{name}: {key}"


@pytest.mark.parametrize(
    "level",
    [LEVELS[0], *(pytest.param(level, marks=pytest.mark.slow) for level in LEVELS[1:])],
    ids=lambda level: level["ATEN_CPU_CAPABILITY"],
)
def test_figures_are_those_of_any_processor(here, level, tmp_path):
    images, wanted = here
    torch.save(images, tmp_path / "images.pt")
    environment = os.environ | level | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "images.pt")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    check(json.loads(done.stdout), wanted)


@pytest.mark.parametrize("offset", [4, 8, 36, 60])
def test_figures_do_not_depend_on_where_weights_and_images_lie(here, digits, offset):
    images, wanted = here
    moved = Evaluator(*splits())
    for owner in moved.classifier.modules():
        for name, value in list(owner.named_parameters(recurse=False)):
            setattr(owner, name, torch.nn.Parameter(displaced(value, offset), requires_grad=False))
    weights = next(moved.classifier.parameters())
    assert weights.data_ptr() % 64 == offset
    for name, (x, y) in images.items():
        found = moved(displaced(x, offset), y)
        for key, value in wanted[name].items():
            assert found[key] == pytest.approx(value, rel=1e-6 if key in ("diversity", "nn_ratio") else 1e-9)


def displaced(value: torch.Tensor, offset: int) -> torch.Tensor:
    """A copy that begins `offset` bytes after a multiple of 64."""
    room = bytearray(value.numel() * value.element_size() + 128)
    base = torch.frombuffer(room, dtype=torch.uint8).data_ptr() % 64
    start = (offset - base) % 64
    copy = torch.frombuffer(room, dtype=value.dtype, count=value.numel(), offset=start).view(value.shape)
    return copy.copy_(value)


# -------------------------------------------------------------------------------------------------------------- shipped


@pytest.mark.parametrize("name", SETS)
def test_built_in_images_have_a_shipped_classifier(untrained, name, tmp_path):
    train, test = splits(name)
    found = classifier.classifier_of(train, test, tmp_path)
    entry = json.loads((evaluators.FOLDER / "index.json").read_text())[name]
    assert (found.name, found.digest) == (f"{name}, shipped", entry["digest"])
    assert not list(tmp_path.iterdir())  # nothing to keep
    rows = range(0, len(test), len(test) // 250)
    x, y = read(test, rows)
    right = (found.network(x).argmax(1) == y).double().mean().item()
    assert right == pytest.approx(found.accuracy, abs=0.03)
    sizes = [(evaluators.FOLDER / f"{name}{kind}.safetensors").stat().st_size for kind in ("", ".moments")]
    assert sum(sizes) < 300_000


@pytest.mark.parametrize("damage", ["bit", "swapped", "cut", "missing", "other weights"])
def test_a_damaged_or_swapped_file_is_refused_by_name(untrained, damage, tmp_path, monkeypatch):
    folder = tmp_path / "evaluators"
    shutil.copytree(evaluators.FOLDER, folder)
    monkeypatch.setattr(evaluators, "FOLDER", folder)
    path = folder / "digits.safetensors"
    content = path.read_bytes()
    if damage == "bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "swapped":
        shutil.copy(folder / "patches.safetensors", path)
    elif damage == "cut":
        path.write_bytes(content[:1000])
    elif damage == "missing":
        path.unlink()
    else:
        weights = load_file(path)
        save_file(weights | {"head.2.bias": -weights["head.2.bias"]}, path)
    with pytest.raises(ValueError, match=r"evaluators/digits\.safetensors.*(damaged|replaced).*install"):
        Evaluator(*splits())


def test_a_missing_index_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluators, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"index\.json is missing; it is a part of distillkac: install it again"):
        Evaluator(*splits())


def test_other_data_have_their_own_classifier(quick, digits, tmp_path):
    """Mirrored digits, of two classes, and with the splits exchanged: trained here, each with a digest of its own."""
    train, test = splits()
    two = [ImageDataset(part.images, part.labels % 2, ("even", "odd")) for part in (train, test)]
    found = [Evaluator(*data) for data in (splits(flip=True), two, two[::-1])]
    assert {evaluator.name for evaluator in found} == {"trained here"}
    assert len({evaluator.digest for evaluator in [*found, digits]}) == 4


def test_images_that_only_look_built_in_are_said(quick):
    """One pixel of one image, as another decoder would have it."""
    train, test = splits()
    images = train.images.clone()
    images[3, 0, 4, 4] = -images[3, 0, 4, 4] + 0.125
    other = ImageDataset(images, train.labels, train.class_names)
    with pytest.warns(UserWarning, match="look like the built-in digits, but are other pixels"):
        assert Evaluator(other, test).name == "trained here"


def test_pixels_of_the_built_in_images_are_whole_numbers():
    """So that their fingerprint is no matter of rounding."""
    for part in splits():
        grey = part.images * 8 + 8
        assert torch.equal(grey, grey.round())
    assert splits("patches")[0].images.dtype == torch.uint8


@pytest.mark.parametrize("name", [*SETS, pytest.param("fashion", marks=pytest.mark.fashion)])
def test_the_index_is_of_the_images_that_the_tool_takes(name):
    entry = json.loads((evaluators.FOLDER / "index.json").read_text())[name]
    data = [load(make.SETS[name], split) for split in ("train", "test")]
    assert (entry["fingerprint"], entry["data"]) == (classifier.fingerprint_of(*data), evaluators.describe(*data))


def test_the_shipped_files_are_what_the_tool_writes(quick, tmp_path):
    assert make.main(["digits", "--out", str(tmp_path)]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    names = [name.replace("digits", other) for name in written for other in make.SETS]
    assert set(names) == {path.name for path in evaluators.FOLDER.glob("*.[js]*")}
    made, there = (
        json.loads((folder / "index.json").read_text())["digits"] for folder in (tmp_path, evaluators.FOLDER)
    )
    assert made.keys() == there.keys()
    assert {key for key in made if made[key] != there[key]} >= {"digest", "moments"}  # of two steps of training


# -------------------------------------------------------------------------------------------- figures say whose they are


def test_comparison_refuses_rows_of_another_evaluator(tmp_path, digits):
    row = {"setting": "telegraph", "seed": 0, "method": "teacher", "integrator": "ab2", "steps": 2, "restart": 0.0}
    rows = [row | {"evaluator": digits.name, "evaluator_digest": digits.digest}, row]
    assert f"Evaluator: digits, shipped, {digits.digest[:12]}." in comparison_report.markdown(TINY, rows[:1])
    assert "Evaluator: of an earlier version, trained on one machine." in comparison_report.markdown(TINY, rows[1:])
    with pytest.raises(ValueError, match="two evaluators cannot stand in one table: digits, shipped"):
        comparison_report.markdown(TINY, rows)
    path = compare.cell_folder(tmp_path, TINY.settings[0], 0) / compare.RESULTS
    files.write_json(path, rows[:1])
    compare.check_same_evaluator(tmp_path, TINY, digits)
    files.write_json(path, rows)
    with pytest.raises(ValueError, match=r"results\.json was measured by another evaluator \(of an earlier version"):
        compare.check_same_evaluator(tmp_path, TINY, digits)


def test_report_names_two_evaluators(tmp_path):
    one, other = ({"name": "digits, shipped", "digest": letter * 32} for letter in "ab")
    files.write_json(tmp_path / "diagnosis" / "diagnosis.json", {"guidance": {"evaluator": one}})
    assert report._guidance_evaluator(tmp_path) == [
        "<p>Fréchet distances against guidance: evaluator digits, shipped, aaaaaaaaaaaa.</p>"
    ]
    files.write_json(tmp_path / "evaluation.json", {"evaluator": other})
    (line,) = report._guidance_evaluator(tmp_path)
    assert "not that of the measurements above (digits, shipped, bbbbbbbbbbbb): these do not compare" in line
    files.write_json(tmp_path / "evaluation.json", {})
    assert "(of an earlier version, trained on one machine)" in report._guidance_evaluator(tmp_path)[0]
    files.write_json(tmp_path / "diagnosis" / "diagnosis.json", {"guidance": None})
    assert report._guidance_evaluator(tmp_path) == []
