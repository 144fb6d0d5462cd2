"""Shared by the fit_*.py scripts: minimax fits, exact float32 arithmetic, and the constants of a C++ header."""

import re
from pathlib import Path

import numpy as np


def minimax(basis, target, weight, rounds=400):
    """Coefficients c that minimise max |weight * (basis @ c - target)|, by Lawson's reweighted least squares.

    basis (n, k), target (n,), weight (n,) >= 0, all float64. Returns (c (k,), the maximum reached).
    """
    rows, values = basis * weight[:, None], target * weight
    scale = np.linalg.norm(rows, axis=0)
    rows = rows / scale
    lawson = np.full(len(values), 1.0 / len(values))
    best, best_error = None, np.inf
    for _ in range(rounds):
        root = np.sqrt(lawson)
        c = np.linalg.lstsq(rows * root[:, None], values * root, rcond=None)[0]
        error = np.abs(rows @ c - values)
        if error.max() < best_error:
            best, best_error = c / scale, error.max()
        lawson = lawson * error
        lawson /= lawson.sum()
    return best, best_error


def minimax_float32(basis, target, weight):
    """`minimax` with float32 coefficients: each is rounded in turn, columns left to right, and the rest refitted.

    The leading columns carry most of the value, so the later ones absorb their rounding. Returns float32 (k,).
    """
    c = np.empty(basis.shape[1], np.float32)
    rest = target.astype(np.float64)
    for i in range(basis.shape[1]):
        c[i] = minimax(basis[:, i:], rest, weight)[0][0]
        rest = rest - basis[:, i] * np.float64(c[i])
    return c


def fma32(a, b, c):
    """float32 a*b + c rounded once, exactly as std::fma(float, float, float), in numpy.

    The float64 product of two float32 is exact; its sum with c is rounded to odd in float64, and rounding that to
    float32 is then the correctly rounded result (Boldo & Melquiond 2008).
    """
    product = np.float64(a) * np.float64(b)
    c = np.float64(c) + np.zeros_like(product)
    total = product + c
    other = total - product
    lost = (product - (total - other)) + (c - other)
    even = (total.view(np.int64) & 1) == 0
    return np.where((lost != 0) & even, np.nextafter(total, np.copysign(np.inf, lost)), total).astype(np.float32)


def horner32(coefficients, x):
    """float32 polynomial, coefficients low to high, one fma per degree."""
    value = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = fma32(value, x, c)
    return value


def cpp(name, coefficients, first=0):
    """`inline constexpr float` lines name<first>, name<first + 1>, ..., exact to the bit."""
    numbers = (f"{np.float32(c):.9g}" for c in coefficients)
    numbers = (n if set(n) & set(".e") else n + ".0" for n in numbers)
    return "".join(f"inline constexpr float {name}{first + i} = {n}f;\n" for i, n in enumerate(numbers))


def read_constants(header):
    """{name: float32} of every `kName = <number>f` in a C++ header."""
    found = re.findall(
        r"\b(k[A-Z]\w*)\s*=\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)f\b", Path(header).read_text(encoding="utf-8")
    )
    return {name: np.float32(number) for name, number in found}


def check_constants(header, expected, tolerance):
    """The header's constants for the names of `expected` {name: value}; relative difference at most `tolerance`.

    Returns {name: float32} as found. Raises SystemExit naming each constant that is missing or differs.
    """
    found = read_constants(header)
    wrong = [
        f"{name}: expected {np.float32(value):.9g}, got {f'{found[name]:.9g}' if name in found else 'nothing'}"
        for name, value in expected.items()
        if name not in found or abs(float(found[name]) - float(value)) > tolerance * abs(float(value))
    ]
    if wrong:
        raise SystemExit(f"{header} does not hold the derived constants:\n  " + "\n  ".join(wrong))
    return {name: found[name] for name in expected}
