"""`python -m distillkac.diagnose` of a network without a label for no class, and where one of its sections fails."""

import json

import numpy as np
import pytest

from distillkac import diagnose
from distillkac.data import DataConfig
from distillkac.evaluation import diagnosis
from distillkac.runs import adopt
from tests.adopted import saved

MEASURED_ELSEWHERE = ("_speed_sections", "_steps_section", "_sensitivity_section", "_limit_section")


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Of a command that diagnoses an adopted network, which knows no class: only its start is really measured."""
    for name in MEASURED_ELSEWHERE:
        monkeypatch.setattr(diagnosis, name, lambda *_, name=name: {name: 1})
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8))
    adopt(saved(tmp_path / "model"), tmp_path / "run", DataConfig(path=str(tmp_path / "images.npz")))
    return [str(tmp_path / "run"), "--num", "8", "--guidance-num", "0", "--energy-num", "0"]


def test_a_network_without_a_null_class_has_no_start_of_no_class(words, tmp_path, capsys):
    assert diagnose.main(words) == 0
    start = json.loads((tmp_path / "run" / "diagnosis" / "diagnosis.json").read_text())["start"]
    assert start["class"] > 0
    assert start["no_class"] is None
    assert "of no class" not in capsys.readouterr().out


def test_what_sections_found_is_kept_when_a_later_one_fails(words, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run" / "diagnosis"
    assert diagnose.main(words) == 0
    before = (out / "diagnosis.json").read_bytes()

    def failing(*_):
        raise ValueError("too far")

    with monkeypatch.context() as patch:
        patch.setattr(diagnosis, "_limit_section", failing)
        assert diagnose.main(words) == 1
    unfinished = out / "diagnosis-unfinished.json"
    told = f"diagnose ended in its section diffusion; those before it are in {unfinished}\nerror: too far\n"
    assert capsys.readouterr().err.endswith(told)
    assert (out / "diagnosis.json").read_bytes() == before
    assert list(json.loads(unfinished.read_text()))[-2:] == ["_sensitivity_section", "start"]
    assert diagnose.main(words) == 0
    assert (out / "diagnosis.json").read_bytes() == before
    assert not unfinished.exists()
