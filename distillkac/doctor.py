"""What is installed and whether it works: `python -m distillkac.doctor`. Paste its output into a bug report."""

import importlib.metadata
import os
import platform
import re
import sys
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import distillkac
from distillkac import _sources, ops, reference
from distillkac._kernels import native
from distillkac.processes import Planar, Telegraph

SETTINGS = ("OMP_", "MKL_", "CUDA_", "NCCL_", "TORCH_", "PYTORCH_", "DISTILLKAC_", "ACCELERATE_")
PHILOX_OF_ZERO = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's known answer


@dataclass(frozen=True)
class DoctorArgs:
    """Tells versions, kernels, SIMD level, threads and GPU, and runs a self-test of about a second.

    Exit code 1 if the self-test fails. Of environment variables, those of torch's libraries are shown.
    """


def main(argv: list[str] | None = None) -> int:
    tyro.cli(DoctorArgs, args=argv, prog="python -m distillkac.doctor")
    build = native.build_info()
    rows = [
        (
            "distillkac",
            f"{distillkac.__version__}, commit {_sources.commit()}; kernels of commit {build['commit']}, sources "
            f"{build['source_hash']}",
        ),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        *((group, _versions(names)) for group, names in requirements().items()),
        ("compiler", build["compiler"]),
        ("CPU kernels", f"{native.simd_level()} (this processor and build have {', '.join(native.simd_levels())})"),
        ("CUDA kernels", _cuda_kernels(build)),
        ("GPU", _gpu()),
        ("threads", f"{torch.get_num_threads()}, between ops {torch.get_num_interop_threads()}"),
        ("environment", " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)) or "-"),
    ]
    for name, value in rows:
        print(f"{name:14}{value}")
    failures, start = [], time.perf_counter()
    devices = ["cpu"] + (["cuda"] if build["cuda"] and torch.cuda.is_available() else [])
    for device in devices:
        failures += self_test(torch.device(device))
    verdict = "; ".join(failures) if failures else f"passed on {' and '.join(devices)}"
    print(f"{'self-test':14}{verdict} ({time.perf_counter() - start:.1f} s)")
    return 1 if failures else 0


def self_test(device: torch.device) -> list[str]:
    """What is wrong on this device, in words; empty if nothing."""
    failures = []

    def expect(right: bool, what: str) -> None:
        if not right:
            failures.append(f"FAILED on {device}: {what}")

    expect(native.philox([0] * 4, [0] * 2) == PHILOX_OF_ZERO, "Philox known answer")
    t = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64, device=device)
    a, c = 9.0, 3.0
    for flow in (Telegraph(a, c), Planar(a, c)):
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
    loss, exact = ops.endpoint_loss(x, u, end, delta).item(), reference.endpoint_loss(x, u, end, delta).item()
    expect(abs(loss - exact) < 1e-5 * exact, "endpoint loss")
    return failures


def requirements() -> dict[str, list[str]]:
    """Names of the packages that distillkac needs ("packages") and of those of each extra ("[data]", ...).

    Of a source checkout as its pyproject.toml says, else as the installed package says.
    """
    project = Path(distillkac.__file__).parents[1] / "pyproject.toml"
    if project.exists():
        table = tomllib.loads(project.read_text())["project"]
        lines = {"packages": table["dependencies"]}
        lines |= {f"[{extra}]": wanted for extra, wanted in table["optional-dependencies"].items()}
    else:
        lines = {"packages": []}
        for line in importlib.metadata.requires("distillkac") or []:
            extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
            lines.setdefault(f"[{extra[1]}]" if extra else "packages", []).append(line)
    return {group: [re.match(r"[\w.-]+", line)[0] for line in wanted] for group, wanted in lines.items()}


def _versions(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _cuda_kernels(build: dict) -> str:
    if not build["cuda"]:
        return "not built (no nvcc, or DISTILLKAC_CUDA=OFF)"
    return f"built with CUDA {build['cuda']} for {build['cuda_architectures']}"


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"{names}; torch's CUDA {torch.version.cuda}"


if __name__ == "__main__":
    sys.exit(main())
