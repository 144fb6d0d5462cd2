"""What a network was not trained for is refused by every interface alike."""

import dataclasses

import numpy as np
import pytest
import torch

from distillkac import export, pipeline, sample
from distillkac.pipeline import KacNet, KacPipeline
from distillkac.runs.run import open_run
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import field_of, generate
from distillkac.scheduler import KacScheduler
from distillkac.web.engine import Demo
from tests.pipeline.kinds_of_runs import CPU, loaded, seeded
from tests.toys import run_config

CASES = [  # run, steps, w, whether it can
    ("teacher", 7, None, True),
    ("teacher", 7, 3.0, True),
    ("no-drop", 7, None, True),
    ("no-drop", 7, 0.0, True),
    ("no-drop", 7, 0.5, False),
    ("plain", 2, None, True),
    ("plain", 2, 0.0, True),
    ("plain", 20, None, False),
    ("plain", 1, None, False),
    ("plain", 2, 3.0, False),
    ("folded", 2, None, True),
    ("folded", 2, 1.3, True),
    ("folded", 2, 0.0, False),
    ("folded", 2, 3.0, False),
    ("any-w", 2, 3.0, True),
    ("any-w", 2, 3.5, False),
    ("any-w", 4, 1.0, False),
]


@pytest.mark.parametrize(("name", "steps", "w", "can"), CASES)
def test_every_interface_says_the_same(runs, tmp_path, capsys, name, steps, w, can):
    """Command line, generate, pipeline of a run, saved pipeline, demo page: 4 guidance and 20 steps passed the pipeline."""
    folder, pipe = loaded(runs, name)
    scale = None if w is None else 1 + w
    options = [] if w is None else ["--w", str(w)]
    answers = {"command": sample.main([str(folder), "--steps", str(steps), *options, "--num", "2"]) == 0}
    errors = {"command": capsys.readouterr().err}
    pipe.save_pretrained(tmp_path / "saved")
    saved = KacPipeline.from_pretrained(tmp_path / "saved")
    labels, sampler = torch.tensor([0, 1]), SamplerConfig(steps, w=w)
    for way, call in {
        "pipeline": lambda: pipe([0, 1], steps, scale, seeded()),
        "saved": lambda: saved([0, 1], steps, scale, seeded()),
        "generate": lambda: generate(open_run(folder, CPU), labels, sampler),
    }.items():
        try:
            call()
            answers[way] = True
        except ValueError as error:
            answers[way], errors[way] = False, str(error)
    assert answers == dict.fromkeys(answers, can), errors
    if steps in (1, 2, 4, 20):
        choice = Demo((folder,), CPU).generate("telegraph", [steps], w=w, num=1)[0]
        assert (choice.error == "") == can


@pytest.mark.parametrize(("name", "steps"), [("plain", 3), ("folded", 20)])
def test_an_export_follows_the_same_rule(runs, tmp_path, capsys, name, steps):
    folder, _ = loaded(runs, name)
    assert export.main([str(folder), "--steps", str(steps), "--out", str(tmp_path / "x.pt2")]) == 1
    assert f"is a student of 2 Euler steps on its own grid, got {steps}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["teacher", "plain", "folded", "any-w"])
def test_what_is_not_given_is_what_the_network_was_made_for(runs, name):
    folder, pipe = loaded(runs, name)
    steps = pipe.config.num_inference_steps
    noise = pipe.scheduler.prior((2, 1, 4, 4), seeded())
    velocity, grid, method = field_of(open_run(folder, CPU), SamplerConfig(steps))
    assert method == pipe.scheduler.config.integrator
    pipe.scheduler.set_timesteps(steps)
    torch.testing.assert_close(pipe.scheduler.timesteps, grid[:-1].float())
    assert velocity.w == 0.0
    assert len(noise) == len(pipe([0, 1], generator=seeded(), output_type="pt").images)


def test_other_grids_of_a_student_are_refused(runs):
    folder, pipe = loaded(runs, "plain")
    for rho, integrator, word in ((2.0, "euler", "rho = 2"), (1.5, "ab2", "omit integrator 'ab2'")):
        pipe.scheduler = KacScheduler(rho=rho, integrator=integrator)
        with pytest.raises(ValueError, match=word):
            pipe([0], 2)
    scheduler = KacScheduler.from_pretrained(folder)
    with pytest.raises(ValueError, match="student of 2 Euler steps on its own grid, got 20"):
        scheduler.set_timesteps(20)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=r"interval .* there is none to act"):
        Trained.of(run_config()).settle(SamplerConfig(interval=(0.2, 0.8)), "it")
    with pytest.raises(ValueError, match="is a student of 2 Euler steps"):
        KacPipeline.from_pretrained(folder, 7)


def test_the_number_of_steps_reaches_a_saved_pipeline(runs, tmp_path):
    _, pipe = loaded(runs, "teacher")
    pipe.save_pretrained(tmp_path / "teacher")
    assert KacPipeline.from_pretrained(tmp_path / "teacher", num_inference_steps=7).config.num_inference_steps == 7
    _, pipe = loaded(runs, "plain")
    pipe.save_pretrained(tmp_path / "student")
    with pytest.raises(ValueError, match="is a student of 2 Euler steps"):
        KacPipeline.from_pretrained(tmp_path / "student", num_inference_steps=7)


@pytest.mark.parametrize("steps", [0, -1, True, 2.0, "2", None])
def test_steps_are_whole_numbers(runs, steps):
    _, pipe = loaded(runs, "plain")
    if steps is None:
        assert pipe([0], steps)
        return
    with pytest.raises(ValueError, match="num_inference_steps must be a whole number of at least 1"):
        pipe([0], steps)
    assert pipe([0], np.int64(2))


@pytest.mark.parametrize("scale", [0.5, float("nan"), float("inf"), "2", [1]])
def test_guidance_is_a_number(runs, scale):
    _, pipe = loaded(runs, "teacher")
    with pytest.raises(ValueError, match=r"guidance_scale is 1 \+ w"):
        pipe([0], 2, scale)


def test_a_list_of_generators_has_one_for_each_image(runs):
    _, pipe = loaded(runs, "teacher")
    images = pipe([0, 1, 1], 3, generator=[seeded(4), seeded(5), seeded(6)], output_type="pt").images
    for i, label in enumerate([0, 1, 1]):
        alone = pipe(label, 3, generator=seeded(4 + i), output_type="pt").images
        torch.testing.assert_close(images[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    one = pipe([0, 1], 3, generator=seeded(4), output_type="pt").images
    assert not torch.allclose(one[1], images[1])
    for wrong in ([seeded()], [seeded()] * 4, []):
        with pytest.raises(ValueError, match=f"one for each image, got {len(wrong)} for 3"):
            pipe([0, 1, 1], 3, generator=wrong)
    for wrong in (3, [1, 2, 3], "cpu"):
        with pytest.raises(ValueError, match=r"must be a torch\.Generator or a list of them"):
            pipe([0, 1, 1], 3, generator=wrong)


def test_noise_of_a_list_of_generators():
    scheduler, x = KacScheduler(), torch.zeros(2, 1, 4, 4)
    t = torch.tensor([0.3, 0.8])
    noise = scheduler.sample_noise(x, t, [seeded(1), seeded(2)])
    for i in range(2):
        torch.testing.assert_close(noise[i : i + 1], scheduler.sample_noise(x[i : i + 1], t[i : i + 1], seeded(1 + i)))


def test_one_class_in_every_form_is_one_image(runs):
    _, pipe = loaded(runs, "teacher")
    expected = pipe([1], 2, generator=seeded(), output_type="pt").images
    for label in (
        1,
        "1",
        "bright",
        np.int64(1),
        torch.tensor(1),
        torch.tensor([1]),
        np.array([1]),
        range(1, 2),
        ("1",),
    ):
        images = pipe(label, 2, generator=seeded(), output_type="pt").images
        torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-6)
    for wrong, word in (
        ([], "no class is named"),
        (True, "unknown"),
        ([True], "unknown"),
        ("12", "unknown"),
        (1.0, "unknown"),
    ):
        with pytest.raises(ValueError, match=word):
            pipe(wrong, 2)


def test_pictures_need_one_or_three_channels():
    unet = KacNet({"channels": [32], "head_dim": 8, "middle_attention": False}, (2, 4, 4), ("a",)).eval()
    pipe = KacPipeline(unet, KacScheduler(), 2, trained=dataclasses.asdict(Trained(0.1)))
    with pytest.raises(ValueError, match="1 or 3 channels, these images 2"):
        pipe("a")
    assert pipe("a", output_type="np").images.shape == (1, 4, 4, 2)
    assert pipeline.OUTPUTS == ("pil", "np", "pt")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"process": "telegraph", "sigma": 0.4},
            "sigma 0.4 is of process gaussian, got telegraph: it means nothing here, omit it",
        ),
        ({"process": "gaussian", "a": 9.0}, "a 9 is of process telegraph or planar or quad, got gaussian"),
        ({"process": "planar", "tau_max": 0.9}, "tau_max 0.9 is of process gaussian, got planar"),
    ],
    ids=str,
)
def test_a_scheduler_names_numbers_of_another_process(asked, said):
    with pytest.warns(UserWarning, match=said):
        KacScheduler(**asked)


def test_a_scheduler_has_the_process_of_the_network(runs, tmp_path):
    folder, pipe = loaded(runs, "teacher")
    other, said = KacScheduler(a=9.0), "trained with noise of a 25.0, and the scheduler has a 9.0: load the scheduler"
    with pytest.raises(ValueError, match=said):
        KacPipeline.from_pretrained(folder, scheduler=other)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said):
        KacPipeline.from_pretrained(tmp_path, scheduler=other)
    assert KacPipeline.from_pretrained(tmp_path, scheduler=KacScheduler()).scheduler.config.rho is None
    pipe.scheduler = other
    with pytest.raises(ValueError, match=said):
        pipe([0], 2)
    pipe.scheduler = KacScheduler("gaussian")
    with pytest.raises(ValueError, match=r"noise of name telegraph, .* and the scheduler has name gaussian"):
        pipe([0], 2)
