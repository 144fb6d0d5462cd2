"""What is installed and whether it works: `python -m distillkac.doctor`. Paste its output into a bug report.

It runs with whatever is missing or broken, torch and the kernels too, and says so: nothing but Python is imported at first.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import distillkac
from distillkac import _sources
from distillkac.base import backbones, bundled
from distillkac.base.commands import prog
from distillkac.runs import shipped

SETTINGS = ("OMP_", "MKL_", "CUDA", "NCCL_", "TORCH_", "PYTORCH_", "DISTILLKAC_", "ACCELERATE_")
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}  # those that are imported by another name
# What is used of a package, where that comes far sooner than the whole.
PARTS: dict[str, Callable[[], object]] = {"diffusers": backbones.unet_class, "sklearn": lambda: _images()}
ABSENT = "not installed"
PHILOX_OF_ZERO = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's known answer


def main(argv: list[str] | None = None) -> int:
    """Prints the rows; returns 0, or 1 if something that is needed cannot be imported or the self-test fails."""
    argparse.ArgumentParser(
        prog=prog("doctor"),
        description="Tells versions, kernels, SIMD level, threads and GPU, imports what is needed, and runs a self-test of "
        "about a second. Exit code 1 if something is wrong. Of environment variables, those of torch's libraries are shown.",
    ).parse_args(argv)
    wanted = requirements()
    failures = [
        f"{what}; run: pip install {'' if _version(name) == ABSENT else '--force-reinstall --no-deps '}{name}"
        for name in wanted["packages"]
        if isinstance(what := load(MODULES.get(name, name)), str)
    ]
    kernels: Any = load("distillkac._kernels")
    works = not isinstance(kernels, str)
    # Without torch that is the reason, which was told.
    failures += [kernels] if not works and not isinstance(load("torch"), str) else []
    build = kernels.native.build_info() if works else {}
    told = f"; kernels of commit {build['commit']}, sources {build['source_hash']}" if works else "; no kernels"
    row(
        "distillkac",
        f"{distillkac.__version__} in {Path(distillkac.__file__).parent}, commit {_sources.commit()}{told}",
    )
    row("python", f"{platform.python_version()} on {platform.platform()}")
    row("processor", f"{_processor()}, {os.cpu_count()} cores")
    for group, names in wanted.items():
        row(group, _versions(names))
    if works:
        native = kernels.native
        row("compiler", build["compiler"])
        row("CPU kernels", f"{native.simd_level()} (this processor and build have {', '.join(native.simd_levels())})")
        row("CUDA kernels", _cuda_kernels(build))
    torch: Any = load("torch")
    if not isinstance(torch, str):
        row("GPU", _gpu(torch))
        row("threads", f"{torch.get_num_threads()}, between ops {torch.get_num_interop_threads()}")
    row("environment", " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)) or "-")
    failures, start, devices = failures + models(), time.perf_counter(), []
    if works:
        devices = ["cpu"] + (["cuda"] if build["cuda"] and torch.cuda.is_available() else [])
        for device in devices:
            try:
                failures += self_test(torch.device(device))
            except Exception as error:  # whatever it is, it is what the user wants to know
                failures.append(f"FAILED on {device}: {type(error).__name__}: {error}")
    for what in failures:
        row("wrong", what)
    verdict = f"passed on {' and '.join(devices)}" if not failures else "FAILED: see above" if works else "not run"
    row("self-test", f"{verdict} ({time.perf_counter() - start:.1f} s)")
    return 1 if failures else 0


def row(name: str, value: str) -> None:
    print(f"{name:14}{value}", flush=True)


def models() -> list[str]:
    """Prints which models are shipped; returns what is wrong with their files."""
    found = shipped.problems()
    row("models", "damaged" if found else ", ".join(shipped.names()))
    return found


def load(name: str) -> object:
    """The module, or what is used of it; or, as a str, why it cannot be imported."""
    try:
        return PARTS[name]() if name in PARTS else importlib.import_module(name)
    # A package that is broken, or of another version than those it needs, fails in its own way.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        return (
            reason if name == "distillkac._kernels" else f"{name} cannot be imported: {type(error).__name__}: {reason}"
        )


def _images() -> Path:
    """Those of scikit-learn, all that is used of it."""
    if (path := bundled.find(bundled.DIGITS)) is None:
        raise ModuleNotFoundError("No module named 'sklearn', or none with its images")
    return path


def self_test(device) -> list[str]:
    """What is wrong on this torch.device, in words; empty if nothing."""
    import torch

    from distillkac import ops
    from distillkac._kernels import native
    from distillkac.flow.processes import Planar, Quad, Telegraph
    from distillkac.ops import reference

    failures = []

    def expect(right: bool, what: str) -> None:
        if not right:
            failures.append(f"FAILED on {device}: {what}")

    expect(native.philox([0] * 4, [0] * 2) == PHILOX_OF_ZERO, "Philox known answer")
    t = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64, device=device)
    a, c = 9.0, 3.0
    for flow in (Telegraph(a, c), Planar(a, c), Quad(a, c)):
        process = flow.name
        k = ops.kac_noise(t, (3, 32, 32), process, a, c, seed=1)
        expect(torch.equal(k, ops.kac_noise(t, (3, 32, 32), process, a, c, seed=1)), f"{process} noise repeats")
        expect(bool((k[2].double().std() - flow.std(t)[2]).abs() < 0.03), f"{process} noise has its standard deviation")
        v, exact = ops.kac_velocity(k, t, process, a, c).cpu(), reference.kac_velocity(k.cpu(), t.cpu(), process, a, c)
        inside = k.cpu().abs() < 0.99 * c * t.cpu()[:, None, None, None]
        expect(bool((v - exact)[inside].abs().max() < 0.01), f"{process} velocity")
        x_t, _ = ops.kac_pair(torch.zeros_like(k), t, process, a, c, seed=1)
        expect(torch.equal(x_t, k), f"{process} pair uses the noise of its seed")
    x, u, end = (torch.randn(2, 50, generator=torch.Generator().manual_seed(i)).to(device) for i in range(3))
    delta = torch.tensor([0.1, 0.5], device=device)
    loss, truth = ops.endpoint_loss(x, u, end, delta).item(), reference.endpoint_loss(x, u, end, delta).item()
    expect(abs(loss - truth) < 1e-5 * truth, "endpoint loss")
    return failures


def requirements() -> dict[str, list[str]]:
    """Names of the packages that distillkac needs ("packages") and of those of each extra ("[data]", ...).

    Of a source checkout as its pyproject.toml says, else as the installed package says; of a bare copy no one says.
    """
    project = Path(distillkac.__file__).parents[1] / "pyproject.toml"
    lines: dict[str, list[str]] = {"packages": []}
    if project.exists():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        lines = {"packages": table["dependencies"]}
        lines |= {f"[{extra}]": wanted for extra, wanted in table["optional-dependencies"].items()}
    else:
        found = next(iter(importlib.metadata.distributions(name="distillkac")), None)
        for line in (found and found.requires) or []:
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
            lines.setdefault(f"[{extra[1]}]" if extra else "packages", []).append(line)
    return {group: [re.split(r"[^\w.-]", line)[0] for line in wanted] for group, wanted in lines.items()}


def _versions(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _cuda_kernels(build: dict) -> str:
    if not build["cuda"]:
        return f"not built: {build['cuda_problem'] or 'no nvcc, or DISTILLKAC_CUDA=OFF'}"
    return f"built with CUDA {build['cuda']} for {build['cuda_architectures']}"


def _gpu(torch: ModuleType) -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    try:
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    except RuntimeError as error:  # a driver that does not answer
        names = str(error).splitlines()[0]
    return f"{names}; torch's CUDA {torch.version.cuda}"


if __name__ == "__main__":
    sys.exit(main())
