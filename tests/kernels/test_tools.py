"""The scripts of csrc/tools and what they derived: the quantile table and the constants of the kernels' headers."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("scipy", reason="csrc/tools derives its constants with scipy (pip install '.[test]')")

from tests.places import ROOT

TOOLS = ROOT / "csrc" / "tools"
sys.path.insert(0, str(TOOLS))

import approximation  # noqa: E402
import embed_table  # noqa: E402
import fit_elementary  # noqa: E402
import fit_quad  # noqa: E402
import fit_velocity  # noqa: E402
import make_quantile_table as quantile_table  # noqa: E402
from approximation import fma32  # noqa: E402
from scipy.special import betainc, betaincc, gammaln  # noqa: E402

from tests.places import GOLDEN  # noqa: E402

INSIDE = [row for row in GOLDEN if row["xi"] < 1]  # at the light cone there is an atom, and no density or CDF is given
TABLE = quantile_table.load()
CDF_BOUND = 5.5e-7  # measured 5.35e-7: the degree-6 fit in octave 0 of w'
TAIL_BOUND = 5e-5  # relative, below w' = 2^-16; measured 2e-5 from the interpolation in lambda, near lambda = 25


def survival(s, lam):
    """P(|xi| > s | at least one turn), s (n,): sum over n turns of Poisson(n) P(Beta(1/2, ceil(n/2)) > s^2).

    All terms are positive and no Bessel function appears, so it is independent of the table's derivation and exact
    to 2e-11 relative (lambda = 1e4) in the deepest tail.
    """
    spread = 15 * np.sqrt(lam)  # beyond it, 1e-40
    n = np.arange(max(1, int(lam - spread)), int(lam + spread) + 60)
    probability = np.exp(n * np.log(lam) - lam - gammaln(n + 1)) / -np.expm1(-lam)
    k = (n + 1) // 2
    s = s[:, None]
    beyond = np.where(s < 0.5, betaincc(0.5, k, s * s), betainc(k, 0.5, (1 - s) * (1 + s)))  # no cancellation
    return (probability * beyond).sum(-1)


def table_quantile(w, lam, table=TABLE):
    """|xi| (n,) with P(|xi| > s | at least one turn) = w, as the sampler reads the table, but in float64."""
    x = (quantile_table.NODES - 1) * lam / (lam + quantile_table.LAMBDA_SCALE)
    first = min(max(int(x) - 1, 0), quantile_table.NODES - 4)
    f = x - first
    lagrange = [-(f - 1) * (f - 2) * (f - 3) / 6, f * (f - 2) * (f - 3) / 2, -f * (f - 1) * (f - 3) / 2]
    lagrange = np.array([*lagrange, f * (f - 1) * (f - 2) / 6])
    coefficients = np.tensordot(lagrange, table[first : first + 4].astype(np.float64), 1)
    fraction, exponent = np.frexp(w)
    one = w == 1.0  # the end of octave 0, where frexp already names the next octave
    octave, t = np.where(one, 0, -exponent), np.where(one, 0.5, 2 * fraction - 1.5)
    powers = t[:, None] ** np.arange(quantile_table.COEFFICIENTS)
    return np.clip((coefficients[octave] * powers).sum(-1) / np.sqrt(lam + 1), 0, 1)


def lambdas(n=25, seed=1):
    """Random lambda, all between nodes and spread over the table, and the extremes."""
    x = np.random.default_rng(seed).random(n)
    return [1e-3, 0.1, 1.0, *(10 * x / (1 - x)), 1e4]


def test_table_is_what_the_script_derives():
    # 1 ulp: float64 exp, Bessel and normal quantile may differ in their last bit between machines.
    fast, deep = quantile_table.banks(np.stack([quantile_table.node(i) for i in range(quantile_table.NODES)]))
    new = np.concatenate([fast[:, :, quantile_table.FAST_INDEX].transpose(0, 2, 1), deep], 1)
    assert quantile_table.differences(new, TABLE) <= 1
    content = quantile_table.TABLE.read_bytes()
    assert len(content) == len(fast.tobytes() + deep.tobytes()) == 345_408


def test_table_comparison_sees_one_wrong_coefficient():
    wrong = TABLE.copy()
    wrong[100, 5, 6] += 3 * np.spacing(wrong[100, 5, 6])
    assert quantile_table.differences(wrong, TABLE) > 1


def test_fast_bank_is_addressed_by_exponent_bits():
    fast = np.fromfile(quantile_table.TABLE, "<f4")[: 257 * 7 * 16].reshape(257, 7, 16)
    for w in np.float32([0.75, 0.5, 0.49, 1e-3, 2.0**-16]):
        index = (w.view(np.uint32) >> 23) & 15
        assert (fast[:, :, index] == TABLE[:, -np.frexp(w)[1]]).all()


def test_table_is_continuous_and_zero_at_one():
    jump, at_one = quantile_table.joints(TABLE)
    assert jump < 1.5  # ulp of S: the rounding of seven coefficients on either side
    assert at_one < 3e-8


def test_table_inverts_the_golden_cdf():
    worst = 0.0
    for row in INSIDE:
        mass = -np.expm1(-row["lam"])
        w = 1 - row["cdf_abs"] / mass
        if w > 1e-9:  # below, 1 - cdf has lost its digits: survival() covers that
            xi = table_quantile(np.array([w]), row["lam"])[0]
            worst = max(worst, abs(xi - row["xi"]) * 2 * row["density"] / mass)
    assert 0 < worst < CDF_BOUND


def test_survival_agrees_with_golden():
    for row in INSIDE:
        mass = -np.expm1(-row["lam"])
        assert survival(np.array([row["xi"]]), row["lam"])[0] * mass == pytest.approx(mass - row["cdf_abs"], abs=3e-11)


@pytest.mark.parametrize("lam", lambdas())
def test_table_inverts_the_cdf_between_nodes(lam):
    w = np.append(np.random.default_rng(2).random(300), [1.0, 0.5, 0.25])
    assert np.abs(survival(table_quantile(w, lam), lam) - w).max() < CDF_BOUND


@pytest.mark.parametrize("lam", lambdas())
def test_table_is_right_in_the_tail(lam):
    """Relative in w' from 2^-16 to 1e-9, given two float32 ulp of S: where |xi| is close to 1 no float32 says more."""
    w = 10.0 ** np.random.default_rng(3).uniform(-9, np.log10(2.0**-16), 100)
    xi = table_quantile(w, lam)
    ulp = np.spacing(np.float32(xi * np.sqrt(lam + 1))) / np.sqrt(lam + 1)
    assert (survival(np.minimum(xi + 2 * ulp, 1), lam) <= w * (1 + TAIL_BOUND)).all()
    assert (survival(np.maximum(xi - 2 * ulp, 0), lam) >= w * (1 - TAIL_BOUND)).all()


def test_tail_test_rejects_a_cut_tail():
    """The mistake of a coarse tabulated quantile: nothing beyond 1 - 1/4096."""
    w = np.array([1e-6])
    cut = table_quantile(np.array([1 / 4096]), 9.0)
    assert survival(cut, 9.0) > 100 * w


def test_fma32_is_correctly_rounded():
    """Against exact rationals, on random operands and on sums that lie next to the middle of two float32."""
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal((2, 2000)) * 2.0 ** rng.integers(-12, 12, (2, 2000))).astype(np.float32)
    c = np.where(rng.random(2000) < 0.5, -a * b, rng.standard_normal(2000)).astype(np.float32)
    ulp = np.float32(2.0**-23)
    a = np.append(a, np.float32([1 + ulp, 1 + ulp, 1 - ulp, 2.0**-24, -(2.0**-24), 2.0**-24]))
    b = np.append(b, np.float32([1 + ulp, 1 - ulp, 1 + ulp, 1 + ulp, 1 + ulp, 1 - ulp]))
    c = np.append(c, np.float32([2.0**-24, 2.0**24, 2.0**-60, 1, 1, 1 + ulp]))
    got = fma32(a, b, c)
    for x, y, z, g in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        neighbours = [g, np.nextafter(g, np.float32(np.inf)), np.nextafter(g, np.float32(-np.inf))]
        distances = [abs(Fraction(float(n)) - exact) for n in neighbours]
        assert distances[0] == min(distances)
        if distances.count(distances[0]) > 1:  # a tie goes to the even neighbour
            assert int(g.view(np.uint32)) & 1 == 0


def test_velocity_matches_golden_in_exact_arithmetic():
    for row in INSIDE:
        lam, xi = row["lam"], row["xi"]
        g = fit_velocity.exact_g(np.array([lam * np.sqrt((1 - xi) * (1 + xi))]))[0]
        assert lam * xi / (lam + g) == pytest.approx(row["v_over_c"], rel=1e-13)


@pytest.mark.parametrize("tool", [fit_velocity, fit_elementary, fit_quad])
def test_header_holds_the_derived_constants_and_meets_its_bounds(tool):
    tool.check()


@pytest.mark.parametrize(("tool", "name"), [(fit_velocity, "kN2"), (fit_elementary, "kSin2")])
def test_check_rejects_a_wrong_or_missing_constant(tool, name, tmp_path):
    text = tool.HEADER.read_text()
    header = tmp_path / "header.h"
    for changed in (text.replace(f"{name} = ", f"{name} = 1"), text.replace(f"{name} = ", "kOther = ")):
        assert changed != text
        header.write_text(changed)
        with pytest.raises(SystemExit, match=name):
            tool.check(header)


def test_the_start_of_the_quad_quantile_is_what_the_script_derives():
    """To two digits: many starts are as good, and the last digits are those of a least-squares solver."""
    found = approximation.read_constants(fit_quad.HEADER)
    for i, value in enumerate(fit_quad.fit()):
        assert found[f"kStart{i}"] == pytest.approx(float(value), rel=1e-2)


def test_a_start_of_the_quad_quantile_that_is_too_far_away_is_refused(tmp_path):
    text, header = fit_quad.HEADER.read_text(), tmp_path / "header.h"
    header.write_text(text.replace("kStart0 = 0.36", "kStart0 = 0.66"))
    with pytest.raises(SystemExit, match="are above"):
        fit_quad.check(header)
    header.write_text(text.replace("kStart5 = ", "kOther = "))
    with pytest.raises(SystemExit, match="does not hold kStart5"):
        fit_quad.check(header)


def test_embed_round_trips_to_the_bit(tmp_path):
    out = tmp_path / "table.inc"
    subprocess.run([sys.executable, TOOLS / "embed_table.py", quantile_table.TABLE, out], check=True)
    words = out.read_text().replace("\n", "").rstrip(",").split(",")
    assert all(word.endswith("f") and "." in word for word in words)
    values = np.array([word[:-1] for word in words]).astype(np.float64).astype("<f4")
    assert values.tobytes() == quantile_table.TABLE.read_bytes()


def test_embed_extremes_and_errors():
    extremes = np.array([0.0, -0.0, 1e-45, 3.4028235e38, 1 / 3, np.pi], "<f4")
    words = embed_table.literals(extremes.tobytes()).rstrip(",\n").split(",")
    assert np.array([float(word[:-1]) for word in words]).astype("<f4").tobytes() == extremes.tobytes()
    with pytest.raises(ValueError, match="whole float32"):
        embed_table.literals(b"12345")
    for bad in (np.inf, -np.inf, np.nan):
        with pytest.raises(ValueError, match="infinity or NaN"):
            embed_table.literals(np.array([bad], "<f4").tobytes())


@pytest.mark.slow
@pytest.mark.parametrize("script", ["make_quantile_table.py", "fit_velocity.py", "fit_elementary.py", "fit_quad.py"])
def test_check_runs_from_the_command_line(script):
    subprocess.run([sys.executable, TOOLS / script, "--check"], check=True, cwd=ROOT.parent)
