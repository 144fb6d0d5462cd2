"""What a network was not trained for is refused by every interface alike; every keyword is honoured or refused."""

import dataclasses
import json
import shutil
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from distillkac import export, pipeline, sample
from distillkac._pipeline_options import KNOWN
from distillkac.flow.networks import NetworkConfig
from distillkac.pipeline import KacNet, KacPipeline
from distillkac.runs.config import StudentConfig, save_config
from distillkac.runs.run import open_run
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import field_of, generate
from distillkac.scheduler import KacScheduler
from distillkac.training.objective import FlowMatching
from distillkac.web.engine import Demo
from tests.toys import run_config, trainer

CPU = torch.device("cpu")
TWO = StudentConfig(teacher_steps=4, num_steps=2, rho=1.5, w=0.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(folder, **changes):
    config = run_config(steps=30, **changes)
    matching = FlowMatching(config.noise.build(), len(config.class_names), config.label_drop, config.seed)

    def objective(network, batch):
        weights = torch.zeros(len(batch.x0)) if network.guidance_embedding else None
        return matching(lambda x, t, y: network(x, t, y, weights), batch)

    trainer(folder, config, objective).fit()
    save_config(folder, config)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Teachers and students of every kind, each alone in a folder."""
    root = tmp_path_factory.mktemp("runs")
    listens = NetworkConfig(channels=(32,), head_dim=8, middle_attention=False, guidance_embedding=True)
    made(root / "teacher")
    made(root / "no-drop", label_drop=0.0)
    made(root / "folded" / "student-2", student=dataclasses.replace(TWO, w=1.3))
    made(root / "plain" / "student-2", student=TWO)
    made(root / "any-w" / "student-2", student=dataclasses.replace(TWO, w_max=3.0), network=listens)
    return root


def loaded(runs, name):
    folder = runs / name if name in ("teacher", "no-drop") else runs / name / "student-2"
    return folder, KacPipeline.from_pretrained(folder)


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
        choice = Demo((folder,), CPU).generate("telegraph", [steps], w=w, num=1, model="teacher")[0]
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


def test_a_pipeline_of_an_earlier_version_loads_with_a_word(runs, tmp_path):
    _, pipe = loaded(runs, "plain")
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["trained"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    scheduler = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    del scheduler["num_steps"]
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    with pytest.warns(UserWarning, match="does not know what its network was trained for"):
        old = KacPipeline.from_pretrained(tmp_path)
    assert len(old([0, 1], 20).images) == 2
    index["trained"] = {"label_drop": 0.1, "of_tomorrow": 1}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="not of this version of distillkac"):
        KacPipeline.from_pretrained(tmp_path)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["teacher", "any-w"])
@pytest.mark.parametrize("keyword", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("saved", [False, True])
def test_half_precision_gives_nearly_the_same_images(runs, tmp_path, dtype, name, keyword, saved):
    folder, pipe = loaded(runs, name)
    scale = 3.0
    expected = pipe([0, 1], 2, scale, seeded(), "pt").images
    if saved:
        pipe.save_pretrained(tmp_path)
        folder = tmp_path
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        half = KacPipeline.from_pretrained(folder, **{keyword: dtype})
    assert {p.dtype for p in half.unet.parameters()} == {dtype}
    images = half([0, 1], 2, scale, seeded(), "pt").images
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    torch.testing.assert_close(images, expected, rtol=0, atol=0.1)
    assert (images - expected).abs().max() > 0
    assert half([0], 2, scale, seeded(), "np").images.dtype == np.float32
    assert len(half([0], 2, scale).images) == 1


def test_half_precision_of_a_transformer_and_by_to():
    network = {"backbone": "dit", "channels": [16], "head_dim": 8, "patch": 2}
    unet = KacNet(network, (1, 4, 4), ("a", "b")).eval()
    pipe = KacPipeline(unet, KacScheduler(), 3, trained=dataclasses.asdict(Trained(0.1)))
    torch.nn.init.normal_(unet.velocity.dit.proj_out_2.weight, std=0.1)
    expected = pipe(["a", "b"], 3, 2.0, seeded(), "pt").images
    torch.nn.Module.to(unet, torch.bfloat16)
    torch.testing.assert_close(pipe(["a", "b"], 3, 2.0, seeded(), "pt").images, expected, rtol=0, atol=0.1)


def autoencoder():
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=1,
        norm_num_groups=4,
        scaling_factor=0.7,
        shift_factor=0.1,
    ).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_of_an_autoencoder(runs, dtype):
    folder, _ = loaded(runs, "teacher")
    vae = autoencoder()
    assert vae.config.force_upcast
    expected = KacPipeline.from_pretrained(folder, 3, vae=vae)([0, 1], generator=seeded(), output_type="pt").images
    for dtypes in (dtype, {"vae": dtype, "default": torch.float32}):
        half = KacPipeline.from_pretrained(folder, 3, vae=autoencoder(), torch_dtype=dtypes)
        half.vae.load_state_dict(vae.state_dict())
        images = half([0, 1], generator=seeded(), output_type="pt").images
        assert images.dtype == torch.float32
        assert half.vae.dtype == dtype
        assert half.unet.dtype == (dtype if dtypes is dtype else torch.float32)
        torch.testing.assert_close(images, expected, rtol=0, atol=0.1)


RUN_REFUSES = {
    "variant": "fp16",
    "revision": "main",
    "cache_dir": "somewhere",
    "force_download": True,
    "low_cpu_mem_usage": True,
    "quantization_config": {},
    "use_safetensors": False,
    "device_map": "balanced",
    "torch_dtype": "bfloat16",
    "dtype": torch.int8,
    "unet": None,
    "safety_checker": None,
    "torchdtype": torch.float16,
}


@pytest.mark.parametrize("keyword", RUN_REFUSES)
def test_a_run_folder_refuses_what_it_cannot_honour_by_name(runs, keyword):
    folder, _ = loaded(runs, "teacher")
    word = "torch_dtype" if keyword == "dtype" else keyword
    with pytest.raises(ValueError, match=word):
        KacPipeline.from_pretrained(folder, **{keyword: RUN_REFUSES[keyword]})


def test_a_run_folder_honours_what_makes_sense(runs):
    folder, pipe = loaded(runs, "teacher")
    asked = dict.fromkeys(KNOWN - {"torch_dtype", "dtype", "device_map", "use_safetensors"})
    other = KacPipeline.from_pretrained(
        folder, device_map="cpu", use_safetensors=True, **asked | {"local_files_only": True, "force_download": False}
    )
    assert other.device == CPU
    scheduler = KacScheduler(rho=1.0)
    assert KacPipeline.from_pretrained(folder, scheduler=scheduler).scheduler is scheduler
    with pytest.raises(ValueError, match="are the same option"):
        KacPipeline.from_pretrained(folder, dtype=torch.float16, torch_dtype=torch.bfloat16)
    assert pipe.device == CPU


def test_saved_pipelines_refuse_unknown_keywords(runs, tmp_path):
    """diffusers only warns of them, in a log."""
    _, pipe = loaded(runs, "teacher")
    pipe.save_pretrained(tmp_path)
    for keyword in ("torchdtype", "safety_checker", "trained", "mirror"):
        with pytest.raises(ValueError, match=f"does not know the keyword {keyword}"):
            KacPipeline.from_pretrained(tmp_path, **{keyword: 1})
    with pytest.raises(ValueError, match=r"torch_dtype must be torch\.float32"):
        KacPipeline.from_pretrained(tmp_path, torch_dtype="auto")
    KacPipeline.from_pretrained(tmp_path, local_files_only=True, low_cpu_mem_usage=False, use_safetensors=True)


def test_schedulers_of_runs_refuse_unknown_keywords(runs):
    folder, _ = loaded(runs, "teacher")
    assert KacScheduler.from_pretrained(folder, rho=1.0).config.rho == 1.0
    with pytest.raises(ValueError, match="does not take the keyword torch_dtype"):
        KacScheduler.from_pretrained(folder, torch_dtype=torch.float16)


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


def test_saved_pipelines_carry_a_card(runs, tmp_path):
    for name, sentence in (
        ("teacher", "`guidance_scale` (1 + w) above 1 guides it"),
        ("no-drop", "it cannot be guided"),
        ("folded", "exactly 2 steps; guidance of `guidance_scale` = 2.3 is folded in"),
        ("any-w", "it takes `guidance_scale` from 1 to 4"),
    ):
        _, pipe = loaded(runs, name)
        pipe.save_pretrained(tmp_path / name)
        card = (tmp_path / name / "README.md").read_text()
        for words in (
            "from distillkac.pipeline import KacPipeline",
            "license: unknown",
            "`dark`, `bright`",
            sentence,
            name,
        ):
            assert words in card
        code = card.split("```python\n")[1].split("```")[0].replace(f'"{name}"', repr(str(tmp_path / name)))
        code = code.replace("image.png", str(tmp_path / f"{name}.png"))
        exec(compile(code, "README.md", "exec"), {})
        assert (tmp_path / f"{name}.png").exists()
    index = json.loads((tmp_path / "teacher" / "model_index.json").read_text())
    assert index["unet"] == ["distillkac.pipeline", "KacNet"]
    assert index["scheduler"] == ["distillkac.scheduler", "KacScheduler"]


def test_a_card_that_somebody_wrote_is_kept(runs, tmp_path):
    _, pipe = loaded(runs, "teacher")
    (tmp_path / "README.md").write_text("# My digits\n")
    with pytest.warns(UserWarning, match=r"README\.md is kept as it is"):
        pipe.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My digits\n"
    (tmp_path / "README.md").unlink()
    pipe.save_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path)  # our own is written anew
    assert "KacPipeline" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
@pytest.mark.parametrize("remote", [None, "# Mine, by hand"])
def test_the_hub_gets_the_card(runs, tmp_path, monkeypatch, way, remote):
    """diffusers' own says nothing of what to import; one that is there stays."""
    from huggingface_hub import ModelCard
    from huggingface_hub.utils import EntryNotFoundError

    def load(*_, **__):
        if remote is None:
            raise EntryNotFoundError("none")
        return ModelCard(remote)

    def upload(repo_id, *, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / "hub" / repo_id)

    repo = SimpleNamespace(repo_id="someone/kac")
    monkeypatch.setattr("diffusers.utils.hub_utils.ModelCard.load", load)
    for module in ("diffusers.utils.hub_utils", "diffusers.pipelines.pipeline_utils"):
        monkeypatch.setattr(f"{module}.create_repo", lambda *_, **__: repo, raising=False)
    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", upload)
    _, pipe = loaded(runs, "teacher")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if way == "push_to_hub":
            pipe.push_to_hub("someone/kac")
        else:
            pipe.save_pretrained(str(tmp_path / "saved"), push_to_hub=True, repo_id="someone/kac")
    card = (tmp_path / "hub" / "someone" / "kac" / "README.md").read_text()
    assert ("KacPipeline.from_pretrained(" in card) == (remote is None)
    assert ("# Mine, by hand" in card) == (remote is not None)


def test_bars_of_the_pipeline_stay_out_of_logs(runs, tmp_path, capfd, monkeypatch):
    folder, pipe = loaded(runs, "teacher")
    pipe.save_pretrained(tmp_path)
    capfd.readouterr()
    saved = KacPipeline.from_pretrained(tmp_path)
    saved([0], 3)
    assert capfd.readouterr().err == ""
    saved.set_progress_bar_config(disable=False)
    saved([0], 3)
    assert "3/3" in capfd.readouterr().err
    assert isinstance(saved, DiffusionPipeline)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    KacPipeline.from_pretrained(folder)([0], 3)
    assert "3/3" in capfd.readouterr().err


def test_a_run_without_a_checkpoint_and_a_folder_of_students(runs, tmp_path):
    save_config(tmp_path / "begun", run_config())
    with pytest.raises(ValueError, match=r"has no ema\.safetensors yet"):
        KacPipeline.from_pretrained(tmp_path / "begun")
    assert KacPipeline.from_pretrained(runs / "plain", 2).config.trained["num_steps"] == 2
    with pytest.raises(ValueError, match="is no run folder"):
        KacPipeline.from_pretrained(runs / "plain", 20)


def test_pictures_need_one_or_three_channels():
    unet = KacNet({"channels": [32], "head_dim": 8, "middle_attention": False}, (2, 4, 4), ("a",)).eval()
    pipe = KacPipeline(unet, KacScheduler(), 2, trained=dataclasses.asdict(Trained(0.1)))
    with pytest.raises(ValueError, match="1 or 3 channels, these images 2"):
        pipe("a")
    assert pipe("a", output_type="np").images.shape == (1, 4, 4, 2)
    assert pipeline.OUTPUTS == ("pil", "np", "pt")


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scheduler": 5}, "scheduler must be of the class KacScheduler, got int"),
        ({"vae": "taesd"}, "vae must be of the class AutoencoderKL, got str"),
        ({"vae": torch.nn.Identity()}, "vae must be of the class AutoencoderKL, got Identity"),
    ],
)
def test_a_part_of_another_class_is_refused_by_name(runs, tmp_path, saved, options, said):
    place = runs / "teacher"
    if saved:
        KacPipeline.from_pretrained(place).save_pretrained(tmp_path)
        place = tmp_path
        said = said.split(" must be")[0] if "scheduler" in options else said  # diffusers looks at it first
    with pytest.raises(ValueError, match=said):
        KacPipeline.from_pretrained(place, **options)


def test_a_pipeline_without_its_network_is_refused(runs, tmp_path):
    KacPipeline.from_pretrained(runs / "teacher").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="unet must be of the class KacNet, got NoneType"):
        KacPipeline.from_pretrained(tmp_path, unet=None)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "pretrained_model_name_or_path is empty, which is no path"),
        ("/nonexistent/demo", "/nonexistent/demo is not there: name a run folder"),
        ("./demo", "demo is not there"),
        ("~/no-such-run", "no-such-run is not there"),
        ("~nobody-of-that-name/demo", "there is no such user"),
        ("README.md", "README.md is a file"),
    ],
)
def test_a_place_without_a_pipeline_is_told(runs, tmp_path, monkeypatch, place, said):
    KacPipeline.from_pretrained(runs / "teacher").save_pretrained(tmp_path)  # where an empty string would look
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        KacPipeline.from_pretrained(place)
