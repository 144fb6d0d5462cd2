"""What from_pretrained and save_pretrained take, refuse and write: keywords, parts, the card, the Hub."""

import json
import shutil
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from distillkac._pipeline_options import KNOWN
from distillkac.pipeline import KacPipeline
from distillkac.runs.config import save_config
from distillkac.scheduler import KacScheduler
from tests.pipeline.kinds_of_runs import CPU, loaded
from tests.toys import run_config


def test_a_pipeline_of_an_earlier_version_loads_with_a_word(runs, tmp_path):
    _, pipe = loaded(runs, "plain")
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    del index["trained"]
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    scheduler = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    del scheduler["num_steps"]
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler), encoding="utf-8")
    with pytest.warns(UserWarning, match="does not know what its network was trained for"):
        old = KacPipeline.from_pretrained(tmp_path)
    assert len(old([0, 1], 20).images) == 2
    index["trained"] = {"label_drop": 0.1, "of_tomorrow": 1}
    (tmp_path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ValueError, match="not of this version of distillkac"):
        KacPipeline.from_pretrained(tmp_path)


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


def test_saved_pipelines_carry_a_card(runs, tmp_path):
    for name, sentence in (
        ("teacher", "`guidance_scale` (1 + w) above 1 guides it"),
        ("no-drop", "it cannot be guided"),
        ("folded", "exactly 2 steps; guidance of `guidance_scale` = 2.3 is folded in"),
        ("any-w", "it takes `guidance_scale` from 1 to 4"),
    ):
        _, pipe = loaded(runs, name)
        pipe.save_pretrained(tmp_path / name)
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
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
    index = json.loads((tmp_path / "teacher" / "model_index.json").read_text(encoding="utf-8"))
    assert index["unet"] == ["distillkac.pipeline", "KacNet"]
    assert index["scheduler"] == ["distillkac.scheduler", "KacScheduler"]


def test_a_card_that_somebody_wrote_is_kept(runs, tmp_path):
    _, pipe = loaded(runs, "teacher")
    (tmp_path / "README.md").write_text("# My digits\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"README\.md is kept as it is"):
        pipe.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# My digits\n"
    (tmp_path / "README.md").unlink()
    pipe.save_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path)  # our own is written anew
    assert "KacPipeline" in (tmp_path / "README.md").read_text(encoding="utf-8")


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
    card = (tmp_path / "hub" / "someone" / "kac" / "README.md").read_text(encoding="utf-8")
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


def test_a_name_that_is_nowhere_is_answered_with_those_that_are_here():
    with pytest.raises(OSError, match=r"digit is no folder here, .* comes with distillkac \(digits, fashion\)"):
        KacPipeline.from_pretrained("digit", local_files_only=True)
