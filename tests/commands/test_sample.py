"""`sample` on a tiny run: which network, which images, which files."""

import contextlib
import dataclasses
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac import sample
from distillkac.runs import checkpoints
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.run import open_run
from distillkac.runs.sampling import SamplerConfig, choose, class_labels, generate
from tests.commands.tiny import arrays


def test_animation_ends_with_the_images(run, tmp_path):
    options = ["--steps", "2", "--num", "4", "--columns", "2"]
    assert sample.main([str(run), *options, "--out", str(tmp_path / "way.gif")]) == 0
    assert sample.main([str(run), *options, "--out", str(tmp_path / "end.png")]) == 0
    with Image.open(tmp_path / "way.gif") as way, Image.open(tmp_path / "end.png") as end:
        assert way.n_frames == 3
        way.seek(2)
        last, expected = np.asarray(way.convert("L")).astype(int), np.asarray(end.convert("L")).astype(int)
        assert np.abs(last - expected).max() <= 2  # a GIF has 256 levels of its own


@pytest.mark.one_alignment
def test_restarts_take_any_number_of_steps_and_change_the_images(run, tmp_path):
    chain, _ = arrays(run / "student-2", tmp_path, "--steps", "2", "--num", "8")
    half, _ = arrays(run / "student-2", tmp_path, "--steps", "2", "--restart", "0.5", "--num", "8")
    three, _ = arrays(run / "student-2", tmp_path, "--steps", "3", "--restart", "1", "--num", "8")
    few, _ = arrays(run / "student-2", tmp_path, "--steps", "3", "--restart", "1", "--num", "3")
    assert (chain != half).any()
    assert (half != three).any()
    assert (few == three[:3]).all()


@pytest.mark.parametrize(
    ("asked", "network", "said"),
    [
        ({"steps": 2}, "student-2", None),
        ({"steps": 2, "rho": 1.0}, "student-2", None),  # the student's own
        ({"steps": 2, "w": 0.0}, "student-2", None),
        ({"steps": 2, "w": 1.0}, "teacher", "in 2 steps: .*student-2 was distilled with w = 0.0"),
        (
            {"steps": 2, "integrator": "heun"},
            "teacher",
            "in 2 steps: .*student-2 is a student, which takes Euler steps",
        ),
        ({"steps": 2, "rho": 3.0}, "teacher", "in 2 steps: .*got rho = 3"),
        ({"steps": 3}, "teacher", None),  # more than any student
    ],
)
def test_auto_takes_what_can_do_all_that_is_asked_and_says_so(run, asked, network, said):
    rho = load_config(run / "student-2").student.rho
    asked = asked | ({"rho": rho} if asked.get("rho") == 1.0 else {})
    with pytest.warns(UserWarning, match=said) if said else contextlib.nullcontext():
        folder = choose(run, SamplerConfig(**asked))
    assert folder == (run if network == "teacher" else run / network)
    if network == "teacher":
        with pytest.raises(ValueError, match="has no student for 3 steps" if asked["steps"] == 3 else "student-2"):
            choose(run, SamplerConfig(**asked, model="student"))
    assert choose(run, SamplerConfig(**asked, model="teacher")) == run


def test_auto_says_where_a_run_has_students_of_more_steps(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "student-1")
    with pytest.warns(UserWarning, match=r"the teacher is sampled in 1 step: .* no student for 1 step \(students: 2\)"):
        assert choose(tmp_path / "run", SamplerConfig(steps=1)) == tmp_path / "run"


@pytest.mark.parametrize("steps", ["1", "4"])
@pytest.mark.one_alignment
def test_same_seed_same_images_whatever_the_batch_size(run, tmp_path, steps):
    one = arrays(run, tmp_path, "--steps", steps, "--num", "23", "--batch-size", "23")
    for size in ("1", "7"):
        again = arrays(run, tmp_path, "--steps", steps, "--num", "23", "--batch-size", size)
        assert np.array_equal(one[0], again[0])
        assert np.array_equal(one[1], again[1])
    other = arrays(run, tmp_path, "--steps", steps, "--num", "23", "--seed", "1")
    assert not np.array_equal(one[0], other[0])
    fewer = arrays(run, tmp_path, "--steps", steps, "--num", "5")
    assert np.array_equal(fewer[0], one[0][:5])


def test_samples_are_those_of_the_averaged_network(run, tmp_path):
    images, labels = arrays(run, tmp_path, "--steps", "1", "--num", "6")
    network = open_run(run / "student-1", torch.device("cpu"))
    weights = checkpoints.load_weights(run / "student-1", checkpoints.EMA)[0]
    assert all(torch.equal(value, weights[name]) for name, value in network.network.state_dict().items())
    x1 = generate(network, torch.from_numpy(labels), SamplerConfig(steps=1), path=True).path[0]
    with torch.no_grad():
        x0 = x1 - network.network(x1, torch.ones(6), torch.from_numpy(labels))
    want = ((x0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.abs(images.astype(int) - want.astype(int)).max() <= 1


def test_sample_says_which_network_and_how_many_evaluations(run, tmp_path, capsys):
    for options, words in (
        (["--steps", "2"], ("student-2", "nfe 2,")),
        (["--steps", "4"], ("teacher", "nfe 4,")),
        (["--steps", "2", "--model", "teacher"], ("teacher", "nfe 2,")),
        (["--steps", "2", "--integrator", "heun"], ("teacher", "nfe 4,")),
        (["--steps", "4", "--w", "2"], ("teacher", "nfe 8,")),
        (["--steps", "4", "--w", "2", "--interval", "0.2", "0.6"], ("teacher", "nfe 6,")),
    ):
        arrays(run, tmp_path, "--num", "2", *options)
        line = capsys.readouterr().out
        assert line.startswith(words[0])
        assert words[1] in line


@pytest.mark.one_alignment
def test_output_forms(run, tmp_path, capsys):
    images, labels = arrays(run, tmp_path, "--steps", "1", "--num", "5", "--classes", "3", "7")
    assert images.shape == (5, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.tolist() == [3, 7, 3, 7, 3]
    options = ["--steps", "1", "--num", "5", "--classes", "3", "7"]
    assert sample.main([str(run), *options, "--out", str(tmp_path / "single")]) == 0
    files = sorted((tmp_path / "single").glob("*.png"))
    assert [f.name for f in files] == [f"{i:05d}-class-{k}.png" for i, k in enumerate([3, 7, 3, 7, 3])]
    assert all(np.array_equal(np.asarray(Image.open(f)), image[..., 0]) for f, image in zip(files, images, strict=True))
    assert sample.main([str(run), *options, "--out", str(tmp_path / "single")]) == 0, "the same images"
    other = ["--steps", "1", "--num", "3", "--classes", "3", "7", "--out", str(tmp_path / "single")]
    assert sample.main([str(run), *other]) == 1
    assert "holds 5 images of this sampling already, more than --num 3" in capsys.readouterr().err
    assert len(list((tmp_path / "single").glob("*.png"))) == 5
    assert sample.main([str(run), *options]) == 0
    with Image.open(run / "samples" / "steps-1.png") as grid:
        assert min(grid.size) > 8


def test_labels_cycle_through_the_classes():
    config = dataclasses.replace(RunConfig(), class_names=("cat", "dog", "2"))
    assert class_labels(config, 5).tolist() == [0, 1, 2, 0, 1]
    assert class_labels(config, 3, ("dog", "0", "2")).tolist() == [1, 0, 2]


@pytest.mark.parametrize("out", ["grid.png", "film.gif", "all.npz", "single"])
def test_images_that_are_not_finite_are_no_black_pictures(run, tmp_path, capsys, out):
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("student-*"))
    weights, step = checkpoints.load_weights(folder, checkpoints.EMA)
    weights = {name: torch.full_like(value, 1e25) for name, value in weights.items()}
    about = {"format": "pt", "step": str(step), "digest": checkpoints.digest_of(step, weights)}
    (folder / checkpoints.EMA).write_bytes(checkpoints.to_safetensors(weights, about))
    capsys.readouterr()
    assert sample.main([str(folder), "--steps", "2", "--num", "3", "--out", str(tmp_path / out)]) == 1
    assert "3 of 3 images hold values that are not finite: the sampler diverged" in capsys.readouterr().err
    assert not (tmp_path / out).is_file()
    assert not list(tmp_path.glob("single/*.png"))
