"""Damaged, foreign and hostile run folders: refused by the name of file and entry, before anything is allocated or written."""

import io
import json
import os
import random
import shutil
import struct
import zipfile

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac import report, sample, train
from distillkac.base import files
from distillkac.flow.networks import NetworkConfig
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config, save_config
from distillkac.runs.run import build_network, load_network
from tests.toys import TINY_OPTIONS, optim, run_config, trainer

FILES = {
    str(checkpoints.STATE): checkpoints.load_state,
    checkpoints.MODEL: lambda folder: checkpoints.load_weights(folder, checkpoints.MODEL),
    checkpoints.EMA: checkpoints.load_weights,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A toy run of two steps."""
    return made(tmp_path_factory.mktemp("bad") / "run")


def made(folder, **changes):
    config = run_config(steps=2, optim=optim(batch_size=4), **changes)
    trainer(folder, config).fit()
    save_config(folder, config)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy that may be spoilt."""
    yield shutil.copytree(whole, tmp_path / "run")
    AcceleratorState._reset_state(reset_partial_state=True)


def same(one, two) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed_or_without_effect(run, name):
    path, load, source = run / name, FILES[name], random.Random(3)
    content, expected = path.read_bytes(), load(run)
    places = [*range(0, 400, 9), *(source.randrange(len(content)) for _ in range(60)), *range(-300, 0, 9)]
    refused = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << source.randrange(8)
        path.write_bytes(flipped)
        try:
            assert same(load(run), expected)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  a flip in the padding is harmless and raises nothing
            refused += 1
    assert refused > len(places) // 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fraction", [0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(run, name, fraction):
    path = run / name
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"{path.name}: not a .*, or damaged"):
        FILES[name](run)


def spoil(weights: dict, how: str) -> str:
    """Changes one entry; returns what the refusal must say of it."""
    name = next(name for name, value in weights.items() if value.ndim > 1)
    value = weights[name]
    if how == "shape":
        weights[name] = value[:-1].clone()
    elif how == "dtype":
        weights[name] = value.double()
    elif how == "missing":
        del weights[name]
    elif how == "unknown":
        weights["../../extra"] = value.clone()
        return r"\.\./\.\./extra should be nothing"
    else:
        weights[name] = value.clone()
        weights[name].view(-1)[3] = float(how)
        return f"{name} holds values that are not finite"
    return f"{name} should be float32"


@pytest.mark.parametrize("how", ["shape", "dtype", "missing", "unknown", "nan", "inf"])
def test_weights_that_do_not_fit_are_refused_by_name(run, how):
    config = load_config(run)
    weights, step = checkpoints.load_weights(run)
    said = spoil(weights, how)
    model, _ = checkpoints.load_weights(run, checkpoints.MODEL)
    checkpoints.export(run, step, model, weights)
    with pytest.raises(ValueError, match=rf"ema\.safetensors: .*{said}"):
        load_network(run, config)
    for part in ("model", "ema"):
        state = torch.load(run / checkpoints.STATE, weights_only=True)
        said = spoil(state[part], how)
        spoilt = run.with_name(part)
        shutil.copytree(run, spoilt)
        torch.save(state, spoilt / checkpoints.STATE)
        with pytest.raises(ValueError, match=rf"training\.pt: .*{said}"):
            trainer(spoilt, config)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.update(format=4), r"training\.pt: has format 4, of a later version .* reads formats 1 to 3"),
        (lambda s: s.update(format="2"), r"format must be a whole number"),
        (lambda s: s.update(step=-1), r"step must be a whole number of at least 0"),
        (lambda s: s.update(step=1e9), r"step must be a whole number"),
        (lambda s: s.pop("ema_updates"), r"ema_updates must be a whole number"),
        (lambda s: s.update(model=[1]), r"model must be a dict, got list"),
        (lambda s: s.update(optimizer={}), r"optimizer holds no state"),
        (lambda s: s["model"].update(a=3), r"model\.a must be a dense tensor, got int"),
        (lambda s: s["optimizer"]["state"].update({999: s["optimizer"]["state"][0]}), r"does not fit.*state 999"),
        (lambda s: s["optimizer"]["state"][1].update(exp_avg=torch.zeros(3, 5)), r"does not fit.*state 1"),
        (lambda s: s["optimizer"]["state"][1].pop("exp_avg_sq"), r"does not fit.*state 1"),
        (
            lambda s: s["optimizer"]["state"][1].update(exp_avg=torch.zeros(1).expand(2**50)),
            r"exp_avg has shape \(1125899906842624,\) but fewer values",
        ),
        (
            lambda s: s["optimizer"]["state"][1]["exp_avg"].view(-1)[0].fill_(float("inf")),
            r"optimizer\.state\.1\.exp_avg holds values that are not finite",
        ),
    ],
)
def test_checkpoints_of_another_form_are_refused_by_name(run, change, sentence):
    path = run / checkpoints.STATE
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=rf"training\.pt.*{sentence}".replace(r"training\.pt.*training", "training")):
        trainer(run, load_config(run))


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(run):
    path = run / checkpoints.STATE
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.writestr("archive/data/999", b"\0" * 10_000_000)
    path.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="its entries are larger than the file"):
        checkpoints.load_state(run)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8 + 1, 10_000])
def test_a_header_that_claims_to_be_huge_is_refused(run, length):
    path = run / checkpoints.EMA
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:5000])
    with pytest.raises(ValueError, match=r"ema\.safetensors: not a safetensors file, or damaged"):
        checkpoints.load_weights(run)


def test_a_network_far_larger_than_its_file_is_never_made(run):
    """65536 channels would be terabytes."""
    content = json.loads((run / checkpoints.CONFIG).read_text())
    content["network"]["channels"] = [65536, 65536]
    files.write_json(run / checkpoints.CONFIG, content)
    with pytest.raises(ValueError, match=r"ema\.safetensors: does not fit the network of config\.json"):
        load_network(run, load_config(run))
    content["network"]["layers"] = 10**9
    files.write_json(run / checkpoints.CONFIG, content)
    with pytest.raises(ValueError, match=r"network\.layers must lie in"):
        load_network(run, load_config(run))


def test_a_transformer_is_checked_too(tmp_path):
    config = run_config(network=NetworkConfig("dit", channels=(16,), head_dim=8), shape=(1, 4, 4))
    weights = build_network(config).state_dict()
    checkpoints.export(tmp_path, 1, weights, weights)
    assert same(dict(load_network(tmp_path, config).state_dict()), dict(weights))


STUDENT = {"teacher_steps": 4, "num_steps": 2, "rho": 1.5, "w": 0.0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"flavour": 1}, "RunConfig has no field flavour"),
        ({"format": 4}, "has format 4, of a later version of distillkac"),
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
        ({"shape": [1, 4, 10**9]}, "shape must be three numbers from 1 to 65536"),
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
    assert content.pop("format") == checkpoints.FORMAT == 3
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


def test_a_refused_checkpoint_is_left_as_it_was(tmp_path, capsys):
    options = [*TINY_OPTIONS, "--optim.batch-size", "4", "--preview", "0"]
    folder = tmp_path / "run"
    assert train.main(["--run", str(folder), "--steps", "1", *options]) == 0
    path = folder / checkpoints.STATE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert train.main(["--run", str(folder), "--resume", "--steps", "3"]) == 1
    assert "training.pt: not a checkpoint of distillkac, or damaged (the checksum of" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
