"""The master table of the telegraph sampler: the quantile function of |xi| = |K|/(c t), for every lambda = a t.

Given at least one turn, |xi| has on [0, 1] the density (docs/method.md, telegraph process)

    lambda/(1 - e^-lambda) e^-lambda [I0(z) + lambda I1(z)/z],   z = lambda sqrt(1 - xi^2).

With w' = P(|xi| > s | at least one turn), the scaled quantile S(w') = s sqrt(lambda + 1) is smooth in lambda and in w'
on every octave of w'. The table holds S at 257 nodes x = i/256 of x = lambda/(lambda + 10): node 0 is the limit
lambda -> 0, the uniform law s = 1 - w'; node 256 is the limit lambda -> infinity, the normal law. Octave o = 0..47 is
w' in [2^-(o+1), 2^-o], where S = sum_k coef[k] t^k, k = 0..6, t = mantissa(w') - 3/2 in [-1/2, 1/2]. The polynomial
interpolates at 7 Chebyshev nodes stretched to include both ends, so neighbouring octaves share their end values and
S(1) = 0, up to the rounding of the coefficients to float32 (`joints`: jumps below 1.5 float32 ulp of S, |S(1)|
below 3e-8).

File: little-endian float32, the fast bank [257][7][16], octaves 0..15, last axis = biased float32 exponent of w' & 15,
that is (126 - o) & 15; then the deep bank [257][32][7], octaves 16..47.

    python csrc/tools/make_quantile_table.py            writes csrc/telegraph/quantile_table.bin (one second)
    python csrc/tools/make_quantile_table.py --check    compares it with the committed file
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.special import i0e, i1e, ndtri

TABLE = Path(__file__).parents[1] / "telegraph" / "quantile_table.bin"
NODES, OCTAVES, FAST_OCTAVES, COEFFICIENTS = 257, 48, 16, 7
LAMBDA_SCALE = 10.0
FAST_SHAPE, DEEP_SHAPE = (NODES, COEFFICIENTS, FAST_OCTAVES), (NODES, OCTAVES - FAST_OCTAVES, COEFFICIENTS)
FAST_INDEX = (126 - np.arange(FAST_OCTAVES)) & 15  # where octave o lies in the fast bank

GAUSS_X, GAUSS_W = np.polynomial.legendre.leggauss(10)
FIT_T = np.cos((2 * np.arange(COEFFICIENTS) + 1) * np.pi / (2 * COEFFICIENTS))
FIT_T = 0.5 * FIT_T / FIT_T.max()
TO_COEFFICIENTS = np.linalg.inv(np.vander(FIT_T, COEFFICIENTS, increasing=True))
FIT_W = 2.0 ** -(np.arange(OCTAVES)[:, None] + 1) * (1.5 + FIT_T)  # (48, 7)
NOISE = 1e-13  # contributions below this are float64 rounding of the fit, and stored as zero


def density(s, lam):
    """Density of |xi| at s in [0, 1], given at least one turn; lam > 0.

    Free of overflow and cancellation: e^-lambda I0(z) = e^(z - lambda) i0e(z), z - lambda = -lambda s^2/(1 + r).
    """
    r = np.sqrt((1 - s) * (1 + s))
    z = lam * r
    i1_over_z = np.divide(i1e(z), z, out=np.full_like(z, 0.5), where=z > 0)
    return lam / -np.expm1(-lam) * np.exp(-lam * s * s / (1 + r)) * (i0e(z) + lam * i1_over_z)


def integral(lo, hi, lam):
    """Probability of [lo, hi], element-wise: one 10-point Gauss-Legendre panel each."""
    half = (hi - lo) / 2
    return half * (density(lo[..., None] + half[..., None] * (GAUSS_X + 1), lam) * GAUSS_W).sum(-1)


def quantile(w, lam, panels=300):
    """s with P(|xi| > s | at least one turn) = w for w in (0, 1], lam > 0; relative accuracy in w down to 2^-48.

    Survival is summed from the far end inwards, where its terms are smallest; beyond 14/sqrt(lambda) it is < 1e-42.
    """
    edges = np.linspace(0, min(1.0, 14 / np.sqrt(lam)), panels + 1)
    mass = integral(edges[:-1], edges[1:], lam)
    survival = np.append(np.cumsum(mass[::-1])[::-1], 0.0)  # at each edge
    w = w * survival[0]  # survival[0] = 1 up to rounding; dividing it out makes quantile(1) exactly 0
    panel = np.clip(np.searchsorted(-survival, -w, side="right") - 1, 0, panels - 1)
    lo, hi = edges[panel], edges[panel + 1]
    target = w - survival[panel + 1]
    s = hi - (hi - lo) * target / mass[panel]
    for _ in range(6):  # Newton, kept inside the panel
        s = np.clip(s + (integral(s, hi, lam) - target) / density(s, lam), lo, hi)
    return s


def node(i):
    """Coefficients (48, 7) float64 of node i in 0..256."""
    if i == 0:
        scaled = 1 - FIT_W
    elif i == NODES - 1:
        scaled = -ndtri(FIT_W / 2)
    else:
        lam = LAMBDA_SCALE * i / (NODES - 1 - i)
        scaled = quantile(FIT_W, lam) * np.sqrt(lam + 1)
    coefficients = (scaled[:, None, :] * TO_COEFFICIENTS).sum(-1)  # no BLAS: the same bits for every thread count
    return np.where(np.abs(coefficients) * 0.5 ** np.arange(COEFFICIENTS) < NOISE, 0.0, coefficients)


def banks(octaves):
    """The file's arrays, fast and deep float32, from octave-major coefficients (n, 48, 7)."""
    fast = np.empty((len(octaves), COEFFICIENTS, FAST_OCTAVES), "<f4")
    fast[:, :, FAST_INDEX] = octaves[:, :FAST_OCTAVES].transpose(0, 2, 1)
    return fast, octaves[:, FAST_OCTAVES:].astype("<f4")


def load(path=TABLE):
    """Coefficients float32 (257, 48, 7), octave-major, from a table file. Raises ValueError if its size is wrong."""
    data = np.fromfile(path, "<f4")
    split = np.prod(FAST_SHAPE)
    if data.size != split + np.prod(DEEP_SHAPE):
        raise ValueError(f"{path}: expected {split + np.prod(DEEP_SHAPE)} float32, got {data.size}; re-create it")
    fast, deep = data[:split].reshape(FAST_SHAPE), data[split:].reshape(DEEP_SHAPE)
    return np.concatenate([fast[:, :, FAST_INDEX].transpose(0, 2, 1), deep], 1)


def differences(new, old):
    """Largest difference of two float32 tables (n, 48, 7): in ulp, leaving out those that move S by less than 1e-12.

    Two machines whose exp or log (libm, SIMD level of numpy) differ in the last bit of float64 may differ by one
    float32 ulp where a coefficient lies next to a rounding boundary, and in coefficients too small to matter.
    """
    gap = np.abs(new.astype(np.float64) - old)
    gap[gap * 0.5 ** np.arange(COEFFICIENTS) < 1e-12] = 0
    return (gap / np.spacing(np.maximum(np.abs(new), np.abs(old)))).max()


def joints(table):
    """(largest jump of S between octaves in float32 ulp of S, largest |S(1)|) of a float32 table (n, 48, 7)."""
    table = table.astype(np.float64)
    upper, lower = table @ 0.5 ** np.arange(COEFFICIENTS), table @ (-0.5) ** np.arange(COEFFICIENTS)
    ulp = np.spacing(upper[:, 1:].astype(np.float32))
    return (np.abs(lower[:, :-1] - upper[:, 1:]) / ulp).max(), np.abs(upper[:, 0]).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it")
    check = parser.parse_args().check
    fast, deep = banks(np.stack([node(i) for i in range(NODES)]))
    content = fast.tobytes() + deep.tobytes()
    if not check:
        TABLE.write_bytes(content)
        jump, at_one = joints(load())
        print(f"{TABLE.name}: {len(content)} bytes; jumps between octaves <= {jump:.2f} ulp, |S(1)| <= {at_one:.1e}")
    elif content == TABLE.read_bytes():
        print(f"{TABLE.name}: identical")
    else:
        new = np.concatenate([fast[:, :, FAST_INDEX].transpose(0, 2, 1), deep], 1)
        if (ulp := differences(new, load())) > 1:
            raise SystemExit(f"{TABLE} differs from the derived table by {ulp:.0f} ulp: re-create it")
        print(f"{TABLE.name}: equal to 1 ulp (exp and log round differently here)")


if __name__ == "__main__":
    main()
