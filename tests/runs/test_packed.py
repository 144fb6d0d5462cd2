"""Packed weights: how far they are from the trained ones, what room they take, and which files are refused."""

import json
import math
import zlib

import pytest
import torch

from distillkac.runs import packed
from distillkac.runs.checkpoints import read_safetensors, to_safetensors


def source(seed):
    return torch.Generator().manual_seed(seed)


def weights():
    draw = source(0)
    outlier = torch.randn(6, 40, generator=draw)
    outlier[2, 7] = 500.0
    return {
        "conv.weight": torch.randn(24, 8, 3, 3, generator=draw) * torch.logspace(-3, 2, 24)[:, None, None, None],
        "outlier": outlier,
        "nothing": torch.zeros(3, 5),
        "half nothing": torch.cat([torch.zeros(1, 9), torch.ones(1, 9)]),
        "empty": torch.empty(0, 4),
        "bias": torch.randn(17, generator=draw),
        "number": torch.tensor(0.3),
    }


@pytest.mark.parametrize("grain", [packed.GRAIN, 0.02, 1.0])
def test_no_weight_is_further_away_than_half_a_grain(grain):
    before = weights()
    after = packed.unpack(*packed.pack(before, grain))
    assert after.keys() == before.keys()
    for name, value in before.items():
        found = after[name]
        assert found.dtype == torch.float32
        assert found.shape == value.shape
        if value.dim() < 2:
            assert torch.equal(found, value.half().float())
            continue
        rows = value.double().flatten(1)
        step = (
            torch.maximum(grain * rows.square().mean(1).sqrt(), rows.abs().amax(1) / 127) if len(rows) else rows[:, 0]
        )
        # The scale is a float16: one part in 2048 further, of 127 numbers at most.
        bar = step[:, None] * (0.5 + 127 / 2048) + 1e-30
        assert ((found.double().flatten(1) - rows).abs() <= bar).all(), name


def test_weights_that_are_unpacked_are_exact_products():
    """Of a whole number and a float16, so that every machine has the same ones."""
    tensors, about = packed.pack(weights())
    found = packed.unpack(tensors, about)["conv.weight"].double().flatten(1)
    numbers = found / tensors["conv.weight.scale"].double()[:, None]
    assert torch.equal(numbers, numbers.round())
    assert numbers.abs().max() <= 127


def test_a_weight_takes_as_many_bits_as_theory_says():
    """A normal number in steps of `grain` deviations has an entropy of log2(sqrt(2 pi e) / grain) bits."""
    value = torch.randn(400, 900, generator=source(1))
    for grain in (0.12, 0.18):
        tensors, _ = packed.pack({"w": value}, grain)
        bits = 8 * tensors[packed.NUMBERS].numel() / value.numel()
        assert bits == pytest.approx(math.log2(math.sqrt(2 * math.pi * math.e) / grain), rel=0.015)


def test_packed_weights_go_through_a_file(tmp_path):
    tensors, about = packed.pack(weights())
    (tmp_path / "w.safetensors").write_bytes(to_safetensors(tensors, about))
    there, metadata = read_safetensors(tmp_path / "w.safetensors")
    again, wanted = packed.unpack(there, metadata), packed.unpack(tensors, about)
    assert all(torch.equal(again[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"w": torch.ones(2, 2, dtype=torch.float64)}, "w is torch.float64, and only float32 is packed"),
        ({"w": torch.full((2,), 1e6)}, "w is too large for float16"),
        ({"w": torch.full((2, 2), 1e8)}, "w.scale is too large for float16"),
        ({"w": torch.full((2, 2), math.nan)}, "w.scale is too large for float16, or not finite"),
    ],
)
def test_what_cannot_be_packed_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        packed.pack(change)


@pytest.mark.parametrize("grain", [0.0, 1 / 128, 1.01, math.nan])
def test_a_grain_out_of_range_is_refused(grain):
    with pytest.raises(ValueError, match="grain must lie in"):
        packed.pack(weights(), grain)


def test_files_that_are_not_what_they_claim_are_refused():
    tensors, about = packed.pack({"w": torch.randn(8, 8, generator=source(0))})
    cut = tensors[packed.NUMBERS][:-12].clone()
    bomb = torch.frombuffer(bytearray(zlib.compress(bytes(10**7))), dtype=torch.uint8)
    for files, claims, sentence in (
        (tensors, {"w": [8, 9]}, "other than the 72 weights"),
        (tensors, {"w": [7, 9]}, "other than the 63 weights"),
        (tensors | {packed.NUMBERS: cut}, {"w": [8, 8]}, "other than the 64 weights"),
        (tensors | {packed.NUMBERS: bomb}, {"w": [8, 8]}, "other than the 64 weights"),
        (tensors | {packed.NUMBERS: bomb}, {"w": [10**7]}, "10000000 weights in .* bytes"),
        (tensors, {"w": [10**6, 10**6]}, "1000000000000 weights in"),
        (tensors, {"w": [-8, -8]}, "packed in no way that is known|other than"),
        (tensors, {"other": [8, 8]}, "packed in no way that is known .'other.scale'"),
        (tensors, {"w": 8}, "packed in no way"),
        (tensors, [], "packed in no way"),
        (tensors | {packed.NUMBERS: torch.ones(40, dtype=torch.uint8)}, {"w": [8, 8]}, "packed in no way"),
        ({}, {"w": [8, 8]}, "packed in no way"),
    ):
        with pytest.raises(ValueError, match=sentence):
            packed.unpack(files, {packed.MARK: json.dumps(claims)})
    with pytest.raises(ValueError, match="packed in no way"):
        packed.unpack(tensors, {packed.MARK: "no JSON"})
    assert packed.unpack(tensors, about)["w"].shape == (8, 8)
