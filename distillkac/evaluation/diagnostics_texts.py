"""What a diagnosis prints of each of its sections, whose findings diagnostics.py returned."""

from distillkac.evaluation import diagnostics, diffusion_limit
from distillkac.evaluation.metrics import describe


def print_speeds(found):
    energy = found["energy"]
    print(
        f"energy      1/2 int |u|^2 dt / D: teacher {energy['teacher']:.3f}; straight lines {energy['straight']:.3f}, "
        f"targets {energy['targets']:.3f}"
    )
    if found["bound"] is None:
        print("speed       no speed limit for the Gaussian process", flush=True)
        return
    network, targets = found["network"], found["targets"]
    print(
        f"speed       of the bound |f'| max|x0| + g' c, targets reach {targets['max_ratio']:.4f} (none may exceed it: "
        f"{targets['above']:.0%});\n            the network at most {network['max_ratio']:.2f}, above it in "
        f"{network['above']:.2%} of places",
        flush=True,
    )


def print_near_data(found):
    print(f"t -> 0      {'RMS velocity at t =':22}" + "".join(f"{t:9.0e}" for t in found["times"]) + "  exponent")
    for name, title in (("network", "network"), ("targets", "targets"), ("diffusion", "sqrt(t)-diffusion")):
        values = "".join(f"{v:9.3g}" for v in found[name])
        print(f"{'':12}{title:22}{values}{found['exponents'][name]:10.2f}", flush=True)


def print_students(found):
    if not found:
        print("students    none yet")
        return
    titles = ("endpoint", "path", "nodes", "curvature", "pearson", "spearman", "slope")
    print(f"students    {'RMS from the teacher':22}" + "".join(f"{title:>10}" for title in titles))
    for name, row in found.items():
        cells = "".join(_number(row[title], ".3f", 10) for title in titles)
        print(f"{'':12}{name:22}{cells}", flush=True)


def print_steps(found):
    print(f"steps       {'RMS endpoint error, M =':22}" + "".join(f"{m:9d}" for m in found["steps"]) + "  exponent")
    for name, slope in found["exponents"].items():
        values = "".join(f"{v:9.4f}" for v in found[name])
        print(f"{'':12}{name.replace('_', ', '):22}{values}{_number(slope, '.2f', 10)}", flush=True)


def _number(value, spec, width):
    return f"{'-' if value is None else format(value, spec):>{width}}"


def print_sensitivity(found):
    print(f"sensitivity {'|dx_0| / |dz|':22}{'mean':>9}{'95%':>9}{'max':>9}")
    for name, row in found.items():
        print(f"{'':12}{name:22}" + "".join(f"{value:9.2f}" for value in row.values()), flush=True)


def print_start(found):
    words = {"class": "of a class", "no_class": "of no class"}
    parts = [f"{found[name]:.1%} {words[name]}" for name in words if found[name] is not None]
    print(f"start       distance from the exact velocity at t = 1: {', '.join(parts)}", flush=True)


def print_limit(found):
    chosen = [found["a"].index(a) for a in (1, 10, 100, 1000)]
    print(f"diffusion   {'W1 to N(0, 1), a =':22}" + "".join(f"{found['a'][i]:9d}" for i in chosen) + "  exponent")
    for name in diffusion_limit.LIMITS:
        values = "".join(f"{found[name][i]:9.2g}" for i in chosen)
        print(f"{'':12}{name:22}{values}{found['exponents'][name]:10.2f}", flush=True)


def print_energies(found):
    energy, few = found["energy"], "quantile_5"
    print(
        f"energies    of {found['num']} paths: mean {energy['mean']:.3f}, 90% in [{energy[few]:.3f}, "
        f"{energy['quantile_95']:.3f}]; rank correlation of an image's energy"
    )
    for name, title in (("nearest", "with distance to data"), ("confidence", "with confidence")):
        if name in found:
            cells = ", ".join(f"{_number(found[name][how], '.2f', 5)} {how} " for how in ("all", "within"))
            print(f"{'':12}{title:22}{cells.rstrip()} a class", flush=True)


def print_guidance(found):
    if found is None:
        print("guidance    not measured")
        return
    limits = dict.fromkeys(row["max_speed"] for row in found["rows"])
    print(f"guidance    {'w =':22}" + "".join(f"{w:9g}" for w in diagnostics.WEIGHTS))
    for key, title, spec in (
        ("not_finite", "not finite", "d"),
        ("out_of_range", "|x| > 1.05", ".1%"),
        ("frechet", "Fréchet", ".3f"),
    ):
        for limit in limits:
            values = [row[key] for row in found["rows"] if row["max_speed"] == limit]
            words = "no speed limit" if limit is None else f"limit {limit:.3g}"
            cells = "".join(_number(v, spec, 9) for v in values)
            print(f"{'':12}{title + ', ' + words:22}{cells}", flush=True)
    print(f"{'':12}evaluator of the Fréchet distances: {describe(found['evaluator'])}", flush=True)
