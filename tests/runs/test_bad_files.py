"""Damaged, foreign and hostile checkpoints: refused by the name of file and entry, before anything is allocated or written."""

import io
import json
import random
import shutil
import struct
import zipfile

import pytest
import torch

from distillkac import train
from distillkac.base import files
from distillkac.flow.networks import NetworkConfig
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config
from distillkac.runs.run import build_network, load_network
from tests.runs.toy_runs import FILES, same
from tests.toys import TINY_OPTIONS, run_config, trainer


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
        (lambda s: s.update(format=5), r"training\.pt: has format 5, of a later version .* reads formats 1 to 4"),
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
