"""Coefficients of the telegraph velocity (docs/method.md, fast evaluation): G(z) = z I0(z)/I1(z), y = z^2.

    y < 36:  G = N(y)/D(y),  N = kN0 + kN1 y + kN2 y^2 + kN3 y^3,  D = 1 + kD1 y + kD2 y^2 + kD3 y^3
    else:    G = z + 1/2 + (kC0 z^2 + kC1 z + kC2)/(y (z + kE))

Both are minimax in |error of G|/(z + G), the largest relative error v = c lambda xi/(lambda + G) can inherit at any
lambda >= z.

    python csrc/tools/fit_velocity.py            prints the C++ constants and the errors of v
    python csrc/tools/fit_velocity.py --check    verifies csrc/telegraph/velocity.h
"""

import argparse
from pathlib import Path

import numpy as np
from approximation import check_constants, cpp, fma32
from numpy.polynomial import Chebyshev, Polynomial
from scipy.special import i0e, i1e

HEADER = Path(__file__).parents[1] / "telegraph" / "velocity.h"
Z_SPLIT = 6.0
EXACT_BOUND, FLOAT32_BOUND = (
    7e-8,
    3.1e-7,
)  # largest relative error of v: float32 constants in exact arithmetic, all float32
TOLERANCE = 1e-6  # between derived and committed constants; one float32 ulp is 1.2e-7


def exact_g(z):
    """G(z), z >= 0, to float64 rounding; G(0) = 2."""
    return np.divide(z * i0e(z), i1e(z), out=np.full_like(z, 2.0), where=z > 0)


def rational_minimax(x, f, weight, degree, denominator_degree, rounds=600):
    """(numerator, denominator) in powers of x minimising max weight |numerator/denominator - f|; denominator(0) = 1.

    Linearised least squares, reweighted by the previous denominator and by Lawson's rule. x spans [0, max x].
    """
    domain = [0.0, x.max()]
    unit = 2 * x / x.max() - 1
    top = np.polynomial.chebyshev.chebvander(unit, degree)
    bottom = np.polynomial.chebyshev.chebvander(unit, denominator_degree)
    divisor, lawson, best, best_error = np.ones_like(x), np.ones_like(x), None, np.inf
    for i in range(rounds):
        w = weight / divisor * np.sqrt(lawson)
        rows = np.hstack([top, -f[:, None] * bottom[:, 1:]]) * w[:, None]
        scale = np.linalg.norm(rows, axis=0)
        c = np.linalg.lstsq(rows / scale, f * w, rcond=1e-16)[0] / scale
        numerator, denominator = c[: degree + 1], np.append(1.0, c[degree + 1 :])
        divisor = bottom @ denominator
        error = weight * np.abs(top @ numerator / divisor - f)
        if divisor.min() > 0 and error.max() < best_error:
            best, best_error = (numerator, denominator), error.max()
        divisor = np.maximum(np.abs(divisor), 1e-2)
        if i > 5:  # the denominator settles first; then gently, then fully, towards equal ripples
            lawson = lawson * np.maximum(error / error.max(), 1e-6) ** (0.3 if i < 40 else 1.0)
            lawson /= lawson.mean()
    n, d = (Chebyshev(c, domain=domain).convert(kind=Polynomial, domain=[-1, 1], window=[-1, 1]).coef for c in best)
    return n / d[0], d / d[0]


def fit():
    """{C++ name: float32} of both branches."""
    half = 0.5 * (1 - np.cos(np.linspace(0, np.pi, 4001)))
    y = Z_SPLIT**2 * half
    g = exact_g(np.sqrt(y))
    n, d = rational_minimax(y, g, 1 / (np.sqrt(y) + g), 3, 3)
    n[0] = 2.0  # G(0), which the fit meets to 4e-8
    rho = np.maximum(half / Z_SPLIT, 1e-6)  # 1/z
    z = 1 / rho
    g = exact_g(z)
    f = np.where(rho < 1e-3, 3 / 8 + 3 / 8 * rho + 63 / 128 * rho**2, (g - z - 0.5) * z)  # series: no cancellation
    c, e = rational_minimax(rho, f, 1 / (z + g) / z, 2, 1)
    values = dict(zip(("kN0", "kN1", "kN2", "kN3", "kD1", "kD2", "kD3"), [*n, *d[1:]], strict=True))
    values |= dict(zip(("kC0", "kC1", "kC2", "kE"), [*c, e[1]], strict=True))
    return {name: np.float32(value) for name, value in values.items()}


def exact_arithmetic_error(k):
    """Largest |error of G|/(z + G) of the float32 constants k evaluated in float64, over z in [0, 1e5]."""
    k = {name: float(value) for name, value in k.items()}
    z = np.concatenate([np.linspace(0, Z_SPLIT, 200_001), np.geomspace(Z_SPLIT, 1e5, 200_001)])
    y = z * z
    small = (k["kN0"] + y * (k["kN1"] + y * (k["kN2"] + y * k["kN3"]))) / (
        1 + y * (k["kD1"] + y * (k["kD2"] + y * k["kD3"]))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        large = z + 0.5 + (k["kC2"] + z * (k["kC1"] + z * k["kC0"])) / (y * (z + k["kE"]))
    g = exact_g(z)
    return (np.abs(np.where(y < Z_SPLIT**2, small, large) - g) / (z + g)).max()


def velocity32(k, x, t, a, c):
    """float32 velocity at displacement x (n,) float32 for one (t, a, c), in the kernel's order of operations."""
    ct, f = c * t, np.float32
    high = f(ct)
    low, b2, lam = f(ct - float(high)), f((a / c) ** 2), f(a * t)
    ax = np.abs(x)
    y = b2 * (np.maximum((high - ax) + low, f(0)) * (high + ax))
    z = np.sqrt(y)
    small_n = fma32(fma32(fma32(k["kN3"], y, k["kN2"]), y, k["kN1"]), y, k["kN0"])
    small_d = fma32(fma32(fma32(k["kD3"], y, k["kD2"]), y, k["kD1"]), y, f(1))
    large_d = y * (z + k["kE"])
    large_n = fma32(z + f(0.5), large_d, fma32(fma32(k["kC0"], z, k["kC1"]), z, k["kC2"]))
    small = y < f(Z_SPLIT**2)
    n, d = np.where(small, small_n, large_n), np.where(small, small_d, large_d)
    return f(a) * x * d / fma32(lam, d, n)


def float32_error(k, rows=300, n=4000, seed=0):
    """Largest relative error of `velocity32`, lambda in [1e-4, 1e4] and xi dense near 0, near 1 and between."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for lam in np.geomspace(1e-4, 1e4, rows):
        a, c = 10.0 ** rng.uniform(-1, 2, 2)
        a, c = float(np.float32(a)), float(np.float32(c))  # a and c themselves exact, as a rounded rate is another rate
        t = lam / a
        xi = np.concatenate([rng.random(n), 10.0 ** rng.uniform(-6, 0, n), 1 - 10.0 ** rng.uniform(-7, 0, n)])
        x = (xi * (c * t)).astype(np.float32)
        x = x[(x > 0) & (x.astype(np.float64) < c * t)].astype(np.float32)
        wide = x.astype(np.float64)
        z = a / c * np.sqrt((c * t - wide) * (c * t + wide))
        exact = a * wide / (a * t + exact_g(z))
        worst = max(worst, np.abs(velocity32(k, x, t, a, c) / exact - 1).max())
    return worst


def measure(k, where):
    """(exact-arithmetic error, float32 error) of the constants k; SystemExit naming `where` if above the bounds."""
    errors = exact_arithmetic_error(k), float32_error(k)
    if errors[0] > EXACT_BOUND or errors[1] > FLOAT32_BOUND:
        raise SystemExit(f"{where}: relative errors of v {errors} exceed {EXACT_BOUND, FLOAT32_BOUND}")
    return errors


def check(header=HEADER):
    """The header's constants agree with the derived ones and reach the error bounds. Returns the errors."""
    return measure(check_constants(header, fit(), TOLERANCE), header)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"verify {HEADER.name} instead of printing")
    if parser.parse_args().check:
        errors = check()
    else:
        k = fit()
        for group in (("kN", 0, 4), ("kD", 1, 3), ("kC", 0, 3)):
            print(cpp(group[0], [k[f"{group[0]}{group[1] + i}"] for i in range(group[2])], first=group[1]), end="")
        print(f"inline constexpr float kE = {k['kE']:.9g}f;")
        errors = measure(k, "derived constants")
    print("// largest relative error of v: {:.2e} in exact arithmetic, {:.2e} in float32".format(*errors))


if __name__ == "__main__":
    main()
