"""`sample`: energies beside the images, shaped velocities, and steps by gamma."""

import csv

import pytest
import torch

from distillkac import sample
from distillkac.runs.run import open_run
from distillkac.runs.sampling import SamplerConfig, class_labels, generate
from tests.commands.tiny import arrays

CPU = torch.device("cpu")


def energies(path):
    with path.open() as file:
        assert next(file).startswith("# distillkac energies of sampling ")
        return [float(row["energy"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"integrator": "heun"},
        {"integrator": "euler"},
        {"w": 1.0},
        {"w": 1.0, "max_speed": 1.0},
        {"restart": 0.5},
        {"gamma": 0.5},
    ],
    ids=str,
)
def test_every_way_of_sampling_has_energies(run, options):
    opened = open_run(run, CPU)
    labels = class_labels(opened.config, 5)
    samples = generate(opened, labels, SamplerConfig(3, model="teacher", **options), seed=2)
    assert samples.energy.shape == (5,)
    assert (samples.energy > 0).all()
    if not {"restart", "gamma"} & set(options):
        path = generate(opened, labels, SamplerConfig(3, model="teacher", **options), seed=2, path=True).path
        expected = (path.diff(dim=0).double().square().mean((2, 3, 4)) / -samples.times.diff()[:, None]).sum(0) / 2
        torch.testing.assert_close(samples.energy, expected, rtol=1e-3, atol=0)


def test_energies_are_written_kept_and_never_mixed(run, tmp_path):
    out, table = tmp_path / "images", tmp_path / "energy.csv"
    asked = [str(run), "--steps", "2", "--energy", str(table)]
    assert sample.main([*asked, "--num", "6", "--out", str(out)]) == 0
    opened = open_run(run / "student-2", CPU)
    expected = generate(opened, class_labels(opened.config, 9), SamplerConfig(2)).energy
    assert energies(table) == pytest.approx(expected[:6].tolist(), rel=1e-6)
    assert sample.main([*asked, "--num", "9", "--out", str(out)]) == 0
    assert energies(table) == pytest.approx(expected.tolist(), rel=1e-6)
    text = table.read_text().splitlines(keepends=True)
    table.write_text("".join(text[:6]) + text[6][:3])  # as a crash may leave it
    assert sample.main([*asked, "--num", "9", "--out", str(out)]) == 0
    assert table.read_text() == "".join(text)


@pytest.mark.one_alignment
def test_gamma_and_shaping_change_the_images(run, tmp_path):
    made = {}
    for options in (
        (),
        ("--gamma", "0"),
        ("--gamma", "1"),
        ("--launch", "0.2"),
        ("--landing", "0.05"),
        ("--launch", "0"),
    ):
        made[options], _ = arrays(run, tmp_path, "--steps", "3", "--num", "4", "--model", "teacher", *options)
    assert (made[()] == made["--launch", "0"]).all()
    assert len({images.tobytes() for images in made.values()}) == 5
    student, _ = arrays(run / "student-2", tmp_path, "--steps", "3", "--gamma", "0.5", "--num", "4")
    assert student.shape[0] == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gamma", "2"], "gamma must lie in [0, 1], got 2"),
        (["--gamma", "0.5", "--restart", "0.5"], "give one of them"),
        (["--gamma", "0.5", "--integrator", "heun"], "omit integrator 'heun'"),
        (["--gamma", "0.5", "--launch", "0.1"], "omit one or the other"),
        (["--launch", "0.1", "--restart", "0.5"], "omit one or the other"),
        (["--launch", "2"], "launch must lie in"),
        (["--landing", "0.1"], "landing must lie in"),
        (["--steps", "2", "--model", "student", "--launch", "0.1"], "launch and landing are for a teacher"),
        (["--energy", "TMP/energy.txt"], "must end in .csv"),
        (["--energy", "TMP/other.csv"], "holds no energies of this sampling"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused(run, tmp_path, capsys, options, said):
    (tmp_path / "other.csv").write_text("a table of something else\n")
    given = [option.replace("TMP", str(tmp_path)) for option in options]
    assert sample.main([str(run), "--num", "2", "--out", str(tmp_path / "x.png"), *given]) != 0
    assert said in capsys.readouterr().err
