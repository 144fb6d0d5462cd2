"""Configs and links of a folder that somebody else made."""

import json
import os

import pytest
import torch

from distillkac import report, sample, train
from distillkac.base import files
from distillkac.flow.networks import NetworkConfig
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from tests.runs.toy_runs import FILES, made, same
from tests.toys import trainer

STUDENT = {"teacher_steps": 4, "num_steps": 2, "rho": 1.5, "w": 0.0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"flavour": 1}, "RunConfig has no field flavour"),
        ({"format": 5}, "has format 5, of a later version of distillkac"),
        ({"format": True}, "format must be a whole number"),
        ({"steps": "7"}, "steps must be of type int, got '7'"),
        ({"steps": True}, "steps must be of type int, got True"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"label_drop": float("nan")}, "label_drop must be finite, got nan"),
        ({"label_drop": 10**400}, "label_drop must be finite"),
        ({"data": {"path": 5}}, r"data\.path must be of type str, got 5"),
        ({"data": {"builtin": "/etc"}}, r"data\.builtin must be one of 'digits', 'patches', got '/etc'"),
        ({"data": {"channels": True}}, r"data\.channels must be one of 1, 3, got True"),
        ({"data": []}, r"data must be an object"),
        ({"noise": {"a": "25"}}, r"noise\.a must be of type float"),
        ({"network": {"channels": 32}}, r"network\.channels must be a list"),
        ({"network": {"channels": [32, "64"]}}, r"network\.channels\[1\] must be of type int"),
        ({"network": {"depth": 3}}, r"network has no field depth"),
        ({"optim": {"lr": float("inf")}}, r"optim\.lr must be finite"),
        ({"optim": {"lr": -1}}, r"optim\.lr must be positive"),
        ({"shape": [1, 4]}, r"shape must be a list of 3"),
        ({"shape": [1, 4, 10**9]}, r"shape must lie in \[0, 65536\]"),
        ({"class_names": ["a", None]}, r"class_names\[1\] must be of type str"),
        ({"student": STUDENT | {"method": "../../../etc"}}, r"student\.method must be one of"),
        ({"student": STUDENT | {"num_steps": 0}}, r"student\.num_steps must be at least 1"),
        ({"student": STUDENT | {"rho": -1.0}}, r"student\.rho must be positive"),
        ({"student": {"w": 1.0}}, r"student lacks num_steps, rho, teacher_steps"),
    ],
)
def test_configs_are_refused_by_file_and_field(run, change, sentence):
    path = run / checkpoints.CONFIG
    files.write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(ValueError, match=rf"config\.json: .*{sentence}"):
        load_config(run)


@pytest.mark.parametrize("lost", ["network", "shape", "class_names"])
def test_configs_that_lack_what_every_run_has_are_refused(run, lost):
    path = run / checkpoints.CONFIG
    files.write_json(path, {name: value for name, value in json.loads(path.read_text()).items() if name != lost})
    with pytest.raises(ValueError, match=rf"config\.json: {lost} is missing, which every run has"):
        load_config(run)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "[" * 100_000, "9" * 5000, "\ud800"])
def test_what_is_no_config_at_all_is_refused(run, content):
    (run / checkpoints.CONFIG).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"config\.json: (cannot be read as JSON|not a config)"):
        load_config(run)
    with open(run / checkpoints.CONFIG, "wb") as file:
        file.truncate(files.MAX_JSON + 1)
    with pytest.raises(ValueError, match=r"config\.json: cannot be read as JSON \(67108865 bytes"):
        load_config(run)


def test_folders_without_a_format_still_load(tmp_path):
    """Format 1: no number in config.json and checkpoint, no digest in the exports, fewer fields. (Narrow networks of that
    time do not: test_conditioning.py.)"""
    run = made(tmp_path / "run", network=NetworkConfig(channels=(32,), head_dim=8))
    expected, config = checkpoints.load_weights(run), load_config(run)
    content = json.loads((run / checkpoints.CONFIG).read_text())
    assert content.pop("format") == checkpoints.FORMAT == 4
    del content["optim"]["shard"], content["preview"]
    files.write_json(run / checkpoints.CONFIG, content)
    state = torch.load(run / checkpoints.STATE, weights_only=True)
    del state["format"]
    torch.save(state, run / checkpoints.STATE)
    for name, part in ((checkpoints.MODEL, "model"), (checkpoints.EMA, "ema")):
        files.write_atomic(run / name, checkpoints.to_safetensors(state[part], {"format": "pt", "step": "2"}))
    assert load_config(run) == config
    assert same(checkpoints.load_weights(run), expected)
    assert trainer(run, config).step == 2


@pytest.mark.parametrize("name", [checkpoints.CONFIG, *FILES])
def test_pipes_and_devices_are_not_read(run, name):
    path = run / name
    path.unlink()
    os.mkfifo(path)
    load = FILES.get(name, load_config)
    with pytest.raises(ValueError, match="it is no ordinary file"):
        load(run)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="it is no ordinary file"):
        load(run)


def test_links_do_not_lead_writes_out_of_the_folder(run, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in (checkpoints.EMA, f".{checkpoints.EMA}.tmp", checkpoints.METRICS):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(precious)
    checkpoints.export(run, 1, *(checkpoints.load_state(run)[part] for part in ("model", "ema")))
    checkpoints.MetricsLog(run).append({"step": 1})
    assert precious.read_text() == "mine"
    assert not (run / checkpoints.EMA).is_symlink()
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").symlink_to(precious)
    assert train.main(["--run", str(run), "--resume"]) == 1
    assert precious.read_text() == "mine"


def test_links_do_not_lead_reports_out_of_the_folder(run, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"key")
    (run / "samples").mkdir(exist_ok=True)
    (run / "samples" / "a.png").symlink_to(secret)
    assert "a2V5" not in report.page(run)  # its base64


def test_names_of_classes_are_no_paths(run, tmp_path):
    content = json.loads((run / checkpoints.CONFIG).read_text())
    content["class_names"] = ["../../../out", "/tmp/out"]
    files.write_json(run / checkpoints.CONFIG, content)
    out = tmp_path / "images"
    assert sample.main([str(run), "--steps", "1", "--num", "2", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.glob("*.png")) == [
        "00000-class-..-..-..-out.png",
        "00001-class--tmp-out.png",
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if path != run) == ["images"]
    assert "<script>" not in report.page(run)
