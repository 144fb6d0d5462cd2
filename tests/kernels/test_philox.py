"""The random words: Philox4x32-10 known answers, and where in the noise each word goes (csrc/random/philox.h)."""

import math
import random

import numpy as np
import pytest
import torch

from distillkac import ops
from distillkac.ops import reference

MASK = 0xFFFFFFFF
every_level = pytest.mark.parametrize("level", ops._native.simd_levels())
MAIN, SECOND, RARE = 0, 1, 2  # the purposes in the low 2 bits of the counter's word 1

# Random123, examples/kat_vectors: counter, key, words.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words_of(text):
    return [int(word, 16) for word in text.split()]


def philox(counter, key):
    """Philox4x32-10 in plain integers, from the paper (Salmon et al. 2011, section 4.3)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


def row_words(seed, row, elements, purpose=MAIN):
    """Words of a row in the order of its elements, by the documented mapping."""
    seed, row, words = seed % 2**64, row % 2**64, []
    for i in range(elements):
        call = 16 * (i // 64) + i % 16
        counter = [call & MASK, (call >> 32) << 2 | purpose, row & MASK, row >> 32]
        words.append(philox(counter, [seed & MASK, seed >> 32])[i % 64 // 16])
    return np.array(words, dtype=np.uint64)


def planar_words(seed, row, elements):
    """(radius words, angle words) of the pairs of a row: 32 pairs share 16 calls; words 0, 1 make pair `lane`, words 2, 3
    pair 16 + lane."""
    seed, radius, angle = seed % 2**64, [], []
    for pair in range(elements // 2):
        call, half = 16 * (pair // 32) + pair % 16, pair % 32 // 16
        words = philox([call, MAIN, row & MASK, row >> 32], [seed & MASK, seed >> 32])
        radius.append(words[2 * half])
        angle.append(words[2 * half + 1])
    return np.array(radius, dtype=np.uint64), np.array(angle, dtype=np.uint64)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(counter, key, words):
    assert philox(words_of(counter), words_of(key)) == words_of(words)
    assert list(ops._native.philox(words_of(counter), words_of(key))) == words_of(words)


def test_random_counters():
    rng = random.Random(1)
    for _ in range(500):
        counter, key = [rng.getrandbits(32) for _ in range(4)], [rng.getrandbits(32) for _ in range(2)]
        assert list(ops._native.philox(counter, key)) == philox(counter, key)


SEEDS_AND_ROWS = [
    (0, 0),
    (1, 7),
    (-1, 3),
    (2**63 - 1, 2**32 - 1),
    (-(2**63), 2**32),
    (0x0123456789ABCDEF, 2**32 + 5),
    (12, 2**62 + 2**33 + 1),
]


@every_level
@pytest.mark.parametrize(("seed", "row"), SEEDS_AND_ROWS)
def test_signs_of_telegraph_noise_are_bit_31(seed, row, level, simd_level):
    simd_level(level)
    k = ops.kac_noise(torch.ones(3), (300,), "telegraph", 9.0, 3.0, seed, offset=row)
    for b in range(3):
        expected = row_words(seed, row + b, 300) >> 31 == 1
        assert (torch.signbit(k[b]).numpy() == expected).all()


def test_words_far_inside_a_row():
    """Calls beyond the first chunk of a row: element 16384 starts a chunk, 2^20 is the 64th."""
    size = 2**20 + 70
    k = ops.kac_noise(torch.ones(1), (size,), "telegraph", 1.0, 1.0, 5)[0]
    for i in (16383, 16384, 16449, 2**20 - 1, 2**20, size - 1):
        call = 16 * (i // 64) + i % 16
        word = philox([call, MAIN, 0, 0], [5, 0])[i % 64 // 16]
        assert bool(torch.signbit(k[i])) == bool(word >> 31)


@every_level
@pytest.mark.parametrize("lam", [0.02, 1.0, 9.0, 200.0])
def test_telegraph_sizes_are_quantiles_of_their_words(lam, level, simd_level):
    """w' = P(|xi| > . | it turned) of each draw is the uniform its word stands for; the smallest words are the atoms."""
    simd_level(level)
    seed, row, n = 3, 2**35 + 1, 300  # lambda = .02 leaves 6 that turned
    word = (row_words(seed, row, n) & 0x7FFFFFFF).astype(np.float64)
    k = ops.kac_noise(torch.ones(1), (n,), "telegraph", lam, 1.0, seed, offset=row)[0].double().abs()
    atoms = math.exp(-lam) * 2**31
    is_atom = word < math.floor(atoms)
    assert (k[is_atom] == 1).all()
    w = (word + 0.5 - atoms) / (2**31 - atoms)
    clear = ~is_atom & (word > math.floor(atoms)) & (w > 2**-16)  # the rest takes 32 more bits
    assert clear.sum() >= 3
    survival = 1 - reference.telegraph_cdf_abs(k[clear], lam).numpy() / -math.expm1(-lam)
    slope = 2 * reference.telegraph_density(k[clear], torch.tensor(lam, dtype=torch.float64)).numpy()
    rounding = 2**-23 * k[clear].numpy() * slope / -math.expm1(-lam)
    assert (np.abs(survival - w[clear]) <= 6e-7 + rounding).all()  # 5.5e-7: the table (tests/kernels/test_tools.py)


def test_second_words_serve_small_lambda():
    """e^-lambda > .999: too few main words are left beyond the atoms, so w' comes from the second word."""
    lam, seed, n = 0.0009, 11, 100_000
    word = (row_words(seed, 0, n) & 0x7FFFFFFF).astype(np.float64)
    turned = word > math.floor(math.exp(-lam) * 2**31)
    w = (row_words(seed, 0, n, SECOND).astype(np.float64) + 0.5) / 2**32
    k = ops.kac_noise(torch.ones(1), (n,), "telegraph", lam, 1.0, seed)[0].double().abs()
    assert 50 < turned.sum() < 150
    survival = 1 - reference.telegraph_cdf_abs(k[turned], lam).numpy() / -math.expm1(-lam)
    assert np.abs(survival - w[turned]).max() <= 1e-6
    assert (k[~turned] == 1).all()


def test_rare_words_refine_the_tail():
    """w' < 2^-16: the draw is the quantile of the main word and 32 bits of a third word, to float32 rounding of xi."""
    lam, seed, rows, n = 9.0, 0, 16, 65536
    k = ops.kac_noise(torch.ones(rows), (n,), "telegraph", lam, 1.0, seed).double().abs()
    mass = -math.expm1(-lam)
    found = 0
    for flat in k.flatten().topk(200).indices.tolist():  # 129 atoms and about 16 draws beyond 2^-16
        b, i = divmod(flat, n)
        call, j = 16 * (i // 64) + i % 16, i % 64 // 16
        main = philox([call, MAIN, b, 0], [seed, 0])[j] & 0x7FFFFFFF
        rare = philox([call, RARE, b, 0], [seed, 0])[j]
        u = (main * 2**32 + rare + 0.5) / 2**63
        if u < math.exp(-lam) or not 0 < (w := (u - math.exp(-lam)) / mass) < 0.999 * 2**-16:
            continue
        found += 1
        xi = k[b, i]
        survival = 1 - float(reference.telegraph_cdf_abs(xi[None], lam)) / mass
        slope = 2 * float(reference.telegraph_density(xi, torch.tensor(lam, dtype=torch.float64))) / mass
        assert abs(survival - w) <= 5e-5 * w + 2**-23 * slope * float(xi) + 1e-11
    assert found >= 5


@every_level
@pytest.mark.parametrize(("seed", "row"), SEEDS_AND_ROWS)
@pytest.mark.parametrize("lam", [0.5, 9.0])
def test_planar_noise_is_the_closed_form_of_its_words(seed, row, lam, level, simd_level):
    """r^2 = e (2 - e), v = K / (2 - e) with e = min(-log U / lambda, 1), U = (word + 1/2) / 2^32, angle = 2 pi word / 2^32."""
    simd_level(level)
    n = 258
    radius_words, angle_words = planar_words(seed, row, n)
    k, v = ops.kac_pair(torch.zeros(1, n), torch.ones(1), "planar", lam, 1.0, seed=seed, offset=row)
    e = np.minimum(-np.log((radius_words + 0.5) / 2**32) / lam, 1)
    angle = 2 * math.pi * angle_words / 2**32
    unit = np.stack([np.cos(angle), np.sin(angle)], -1)
    for got, length in ((k, np.sqrt(e * (2 - e))), (v, np.sqrt(e / (2 - e)))):
        assert np.abs(got.double().numpy().reshape(-1, 2) - length[:, None] * unit).max() <= 4e-7
        assert (np.linalg.norm(got.double().numpy().reshape(-1, 2), axis=1) - length <= 4e-7 * length).all()
    assert torch.equal(k, ops.kac_noise(torch.ones(1), (n,), "planar", lam, 1.0, seed, offset=row))


def test_planar_words_at_both_ends_of_the_uniform():
    """-log U is as accurate for U close to 1 (small radii) as for U close to 0 (the light circle)."""
    lam, n = 30.0, 4_000_000
    k = ops.kac_noise(torch.ones(1), (n,), "planar", lam, 1.0, 4)[0].double().unflatten(0, (-1, 2)).norm(dim=-1)
    for pair in (*k.argsort()[:20].tolist(), *k.argsort()[-20:].tolist()):
        words = philox([16 * (pair // 32) + pair % 16, MAIN, 0, 0], [4, 0])
        u = (words[2 * (pair % 32 // 16)] + 0.5) / 2**32
        e = min(-math.log(u) / lam, 1)
        assert float(k[pair]) == pytest.approx(math.sqrt(e * (2 - e)), rel=5e-7)
