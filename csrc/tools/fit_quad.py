"""Where the solution of the quad quantile begins (docs/method.md, section 5): a polynomial close to s(E, lambda).

s solves h(s) = lambda s^2 + phi(q) = E, with q = lambda s (1 - s) and phi(q) = q - log1p(q). With g = 2 / (lambda + 2),
p^2 = g E / lambda (s is close to p where it is small) and P = p (lambda + 2),

    s ~ p (1 + (1 - g) ((kStart0 + kStart1 g) P + (kStart2 + kStart3 g) P^2 + (kStart4 + kStart5 g) P^3)),

to 3% for every lambda and E <= min(lambda, 23), the range of a random word. Two of Halley's steps, each of which cubes the
error, do the rest.

    python csrc/tools/fit_quad.py            prints the C++ constants and the errors at the start and after one and two steps
    python csrc/tools/fit_quad.py --check    verifies csrc/quad/flight.h
"""

import argparse
from pathlib import Path

import numpy as np
from approximation import cpp, minimax, read_constants

HEADER = Path(__file__).parents[1] / "quad" / "flight.h"
MOST = 23.0  # -log of the least uniform number of a 32-bit word is 22.9
LAMBDAS = np.geomspace(1e-4, 1e5, 120)
BOUNDS = (0.03, 3e-4, 1e-9)  # relative, of s: at the start, after one step, after two; in exact arithmetic


def h(s, lam):
    """-log of the survival probability, without cancellation: both terms are positive."""
    q = lam * s * (1 - s)
    series = q * q * (1 / 2 - q * (1 / 3 - q * (1 / 4 - q * (1 / 5 - q / 6))))
    return np.where(q < 1e-3, series, q - np.log1p(np.maximum(q, 0))) + lam * s * s


def points(count=160):
    """(s, lambda, E): Chebyshev nodes in s up to where E = min(lambda, MOST), for each lambda."""
    share = (1 - np.cos(np.linspace(0, np.pi, count)))[1:] / 2
    rows = []
    for lam in LAMBDAS:
        low, high = 0.0, 1.0
        for _ in range(60 if lam > MOST else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if h(middle, lam) < MOST else (low, middle)
        s = high * share
        rows.append(np.stack([s, np.full_like(s, lam), h(s, lam)]))
    return np.concatenate(rows, 1)


def basis(lam, e):
    """(p, the six columns)."""
    g = 2 / (lam + 2)
    p = np.sqrt(g * e / lam)
    return p, np.stack([(1 - g) * g**j * (p * (lam + 2)) ** i for i in (1, 2, 3) for j in (0, 1)], 1)


def fit():
    s, lam, e = points()
    p, columns = basis(lam, e)
    return minimax(columns, s / p - 1, p / s)[0].astype(np.float32)


def halley(s, lam, e):
    q, z, f = lam * s * (1 - s), lam * (1 - s), h(s, lam) - e
    return s * (1 - f * (z + 2) * (1 + q) / (lam * s * s * (z + 2) ** 2 - f * (lam + 2 - 2 * q) / 2))


def measure(start):
    """Largest relative errors of s: at the start, after one step, after two."""
    s, lam, e = points(431)
    p, columns = basis(lam, e)
    found = np.minimum(p * (1 + columns @ start.astype(np.float64)), 1)
    errors = [np.abs(found / s - 1).max()]
    for _ in range(2):
        found = halley(found, lam, e)
        errors.append(np.abs(found / s - 1).max())
    return errors


def check(header=HEADER):
    """The header's constants meet the error bounds. (Many others do as well: no digit of them matters.)"""
    found = read_constants(header)
    names = [f"kStart{i}" for i in range(6)]
    if lost := [name for name in names if name not in found]:
        raise SystemExit(f"{header} does not hold {', '.join(lost)}")
    errors = measure(np.array([found[name] for name in names], np.float32))
    if not all(error <= bound for error, bound in zip(errors, BOUNDS, strict=True)):
        raise SystemExit(f"{header}: errors {errors} are above {BOUNDS}")
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"verify {HEADER.name} instead of printing")
    if parser.parse_args().check:
        errors = check()
    else:
        start = fit()
        print(cpp("kStart", start), end="")
        errors = measure(start)
    print("// relative error of s: {:.2e} at the start, {:.2e} after one step, {:.2e} after two".format(*errors))


if __name__ == "__main__":
    main()
