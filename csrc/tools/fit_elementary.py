"""float32 minimax polynomials of the planar sampler (docs/method.md, planar process): logarithm, sine and cosine.

    log1p(r) = r - r^2/2 + r^3 P(r)              r in [sqrt(1/2) - 1, sqrt(2) - 1]
    sin(pi/2 y) = y (kSin0 + kSin1 y^2 + ...)    y in [-1/2, 1/2]
    cos(pi/2 y) = 1 + kCos1 y^2 + ...

The angle counts quarter turns, so no rounded pi is ever multiplied into an argument.

    python csrc/tools/fit_elementary.py            prints the C++ constants and their measured errors
    python csrc/tools/fit_elementary.py --check    verifies csrc/planar/elementary.h
"""

import argparse
from pathlib import Path

import numpy as np
from approximation import check_constants, cpp, fma32, horner32, minimax_float32

HEADER = Path(__file__).parents[1] / "planar" / "elementary.h"
LOG_DEGREE, SIN_TERMS, COS_TERMS = 7, 4, 4
LOG_BOUND, SIN_BOUND, COS_BOUND = 1.2e-7, 1e-7, 1e-7  # relative, absolute, absolute


def chebyshev_nodes(lo, hi, n=4001):
    return lo + (hi - lo) * 0.5 * (1 - np.cos(np.linspace(0, np.pi, n)))


def fit_log(degree=LOG_DEGREE):
    """P low to high, minimising the relative error of log1p on the whole interval (so -log U is good near U = 1)."""
    r = chebyshev_nodes(np.sqrt(0.5) - 1, np.sqrt(2) - 1, 4000)
    r = r[np.abs(r) > 1e-3]  # the target cancels there, and the weight r^2 makes it irrelevant
    target = (np.log1p(r) - r + r * r / 2) / r**3
    return minimax_float32(np.vander(r, degree + 1, increasing=True), target, np.abs(r**3 / np.log1p(r)))


def fit_sin(terms=SIN_TERMS):
    y = chebyshev_nodes(1e-3, 0.5)
    target = np.sin(np.pi / 2 * y) / y
    return minimax_float32(np.vander(y * y, terms, increasing=True), target, 1 / target)


def fit_cos(terms=COS_TERMS):
    """Coefficients of y^2, y^4, ...; the constant term is exactly 1."""
    y = chebyshev_nodes(0.0, 0.5)
    powers = np.vander(y * y, terms + 1, increasing=True)[:, 1:]
    return minimax_float32(powers, -2 * np.sin(np.pi / 4 * y) ** 2, np.ones_like(y))


def log32(u, p):
    """log of float32 u > 0 as the kernel computes it; p as `fit_log` returns."""
    mantissa, exponent = np.frexp(u)
    low = mantissa < np.float32(np.sqrt(0.5))
    mantissa, exponent = np.where(low, 2 * mantissa, mantissa), exponent - low
    r = mantissa - np.float32(1)
    log1p = fma32(r * r, fma32(r, horner32(p, r), np.float32(-0.5)), r)
    return fma32(exponent.astype(np.float32), np.float32(np.log(2)), log1p)


def sin32(y, s):
    return y * horner32(s, y * y)


def cos32(y, c):
    return horner32(np.concatenate([np.ones(1, np.float32), c]), y * y)


def measure(p, s, c, n=500_000, seed=0):
    """Worst errors of the float32 evaluation: relative of log U, absolute of sin and of cos.

    Dense on both sides of every octave, random below it down to 2^-32, and on every float32 next to U = 1.
    """
    rng = np.random.default_rng(seed)
    next_to_one = np.float32(1) - np.arange(1, 100_000, dtype=np.float32) * np.float32(2**-24)
    u = np.concatenate([np.linspace(0.2, 1, n)[:-1], rng.random(n), 2.0 ** -rng.uniform(0, 32, n), next_to_one])
    u = u.astype(np.float32)
    u = u[u < 1]
    exact = np.log(u.astype(np.float64))
    log_error = np.abs(log32(u, p) / exact - 1).max()
    y = np.concatenate([np.linspace(-0.5, 0.5, n), rng.uniform(-0.5, 0.5, n)]).astype(np.float32)
    angle = np.pi / 2 * y.astype(np.float64)
    return log_error, np.abs(sin32(y, s) - np.sin(angle)).max(), np.abs(cos32(y, c) - np.cos(angle)).max()


def names(p, s, c):
    """{C++ name: value} of the three fits."""
    return (
        {f"kLog{i}": v for i, v in enumerate(p)}
        | {f"kSin{i}": v for i, v in enumerate(s)}
        | {f"kCos{i + 1}": v for i, v in enumerate(c)}
    )


def check(header=HEADER):
    """The header's constants are the derived ones to 1 float32 ulp, and its own values meet the error bounds."""
    p, s, c = fit_log(), fit_sin(), fit_cos()
    found = check_constants(header, names(p, s, c), tolerance=1.2e-7)
    values = np.array(list(found.values()), np.float32)
    errors = measure(*np.split(values, [len(p), len(p) + len(s)]))
    if not (errors[0] <= LOG_BOUND and errors[1] <= SIN_BOUND and errors[2] <= COS_BOUND):
        raise SystemExit(f"{header}: errors (log, sin, cos) are {errors}, above {LOG_BOUND, SIN_BOUND, COS_BOUND}")
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"verify {HEADER.name} instead of printing")
    if parser.parse_args().check:
        errors = check()
    else:
        p, s, c = fit_log(), fit_sin(), fit_cos()
        print(cpp("kLog", p) + cpp("kSin", s) + cpp("kCos", c, first=1), end="")
        errors = measure(p, s, c)
    print("// measured in float32: log(U) {:.2e} relative, sin {:.2e} absolute, cos {:.2e} absolute".format(*errors))


if __name__ == "__main__":
    main()
