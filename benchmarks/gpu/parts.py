"""The parts of `make gpu`, in their order: what tells most in the first minutes comes first."""

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FASHION = Path("/usr/share/datasets/fashion-mnist")
PRODUCT = ("accelerate", "diffusers", "safetensors", "sklearn", "tyro", "PIL", "matplotlib")
PYTHON = sys.executable
NAMES = (
    *(
        "machine",
        "agreement",
        "kernels",
        "tests",
        "throughput",
        "ops",
        "digits",
        "sanitizer",
        "resume",
        "two-processes",
    ),
    *("methods", "samplers", "fashion"),
)
METHODS = {
    "best": ("--recipe", "best"),
    "paper": ("--recipe", "paper"),
    "reconstruction": ("--method", "reconstruction", "--stages", "20,4", "--steps", "200"),
    "pairs": ("--recipe", "pairs"),
}
# Each in a few steps, for a CPU.
FEW = ("--optim.batch-size", "32", "--pairs.count", "64")
SMALL = {
    "best": (*FEW, "--consistency.steps", "2", "--steps", "2", "--inverse.steps", "1"),
    "paper": (*FEW[:2], "--steps", "1", "1", "1", "1"),
    "reconstruction": (*FEW[:2], "--steps", "1"),
    "pairs": (*FEW, "--steps", "1", "1", "1", "--inverse.steps", "1"),
}
SAMPLERS = {
    "euler-4": ("--integrator", "euler", "--steps", "4"),
    "heun-20": ("--integrator", "heun", "--steps", "20"),
    "ab2-20": ("--integrator", "ab2", "--steps", "20"),
    "guided-20": ("--w", "2", "--steps", "20"),
    "guided-bounded-20": ("--w", "8", "--max-speed", "4", "--steps", "20"),
    "guided-interval-20": ("--w", "2", "--interval", ".1", ".6", "--steps", "20"),
    "restarts-20": ("--restart", ".5", "--integrator", "euler", "--steps", "20"),
}


@dataclass(frozen=True)
class Part:
    """A part of the whole. commands: run one after the other from the project's folder."""

    name: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    modules: tuple[str, ...] = ()
    """What must be installed besides torch, numpy and pytest."""
    program: str | None = None
    """A program that must be found."""
    path: Path | None = None
    """A file or folder that must be there: data, or what an earlier part makes."""
    why_not: str | None = None
    """Why it makes no sense on this device."""
    fresh: tuple[Path, ...] = ()
    """Folders that are removed before it begins."""
    device: str = "cuda"
    whole: bool = False
    """Whether the commands after one that failed are run too."""

    def lacking(self) -> list[str]:
        return [name for name in self.modules if importlib.util.find_spec(name) is None]

    def reason_to_skip(self) -> str | None:
        if self.why_not is not None:
            return self.why_not
        if lacking := self.lacking():
            return f"needs {', '.join(lacking)}: pip install -e '.[test]'"
        if self.program is not None and shutil.which(self.program) is None:
            return f"needs {self.program}, of the CUDA toolkit"
        if self.path is not None and not self.path.exists():
            return f"needs {self.path}"
        return None

    def environment(self) -> dict[str, str]:
        """Where the commands find the project, and which device they take."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        cpu = {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **cpu}


def device_problem(device: str) -> str | None:
    """Why nothing can be measured on it; None if it can."""
    import torch

    from distillkac._kernels import native

    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU here; --device cpu runs the same script in small"
    if not native.build_info()["cuda"]:
        return "distillkac was built without CUDA kernels: docs/install.md says how to build them"
    return None


def all_parts(device: str, out: Path) -> list[Part]:
    """The parts in the order of NAMES. out: where they write."""
    out = out.absolute()
    made = (*_first(device, out), *_kernels(device, out), *_trainings(device, out), *_from_digits(device, out))
    found = {part.name: part for part in made}
    return [found[name] for name in NAMES]


def _first(device: str, out: Path) -> list[Part]:
    """What tells most in seconds, and needs nothing else."""
    return [
        Part("machine", "what is here", (_module("distillkac.doctor"),), ("tyro",), device=device),
        Part(
            "agreement",
            "every op beside the CPU, in units of the last place",
            (_module("benchmarks.gpu.agreement", "--device", device, "--out", str(out / "agreement-figures.json")),),
            device=device,
        ),
        Part(
            "kernels",
            "the time of every kernel beside a copy of as many bytes and torch.randn",
            (
                _module(
                    *("benchmarks.gpu.kernels", "--device", device, "--out", str(out / "kernels-figures.json")),
                    *("--results", str(out / "kernels")),
                ),
            ),
            device=device,
        ),
    ]


def _kernels(device: str, out: Path) -> list[Part]:
    gpu = device == "cuda"
    no_gpu = None if gpu else "needs a GPU"
    bench, results = str(out / "benchmark.json"), str(out / "results")
    contests = () if gpu else ("-k", "test_guided_step and 64x3x32x32")
    # On a GPU the pages of the project: what is measured there is meant to be committed.
    pages = ("--results", results, "--images", str(out), "--pages", str(out / "speed.md"), str(out / "README.md"))
    return [
        Part(
            "tests",
            "the tests of the CUDA kernels: values, streams, graphs, gradients",
            (_module("pytest", "-q", "tests/gpu", "--ignore", "tests/gpu/test_compute_sanitizer.py"),),
            PRODUCT,
            why_not=no_gpu,
            device=device,
        ),
        Part(
            "sanitizer",
            "the CUDA kernels under memcheck, racecheck and synccheck",
            (_module("pytest", "-q", "tests/gpu/test_compute_sanitizer.py"),),
            program="compute-sanitizer",
            why_not=no_gpu,
            device=device,
        ),
        Part(
            "ops",
            "the ops beside eager torch, torch.compile, CuPy and a copy, and the tables of README and docs/speed.md",
            (
                _module(
                    *("pytest", "-q", "benchmarks", "--ignore", "benchmarks/test_end_to_end.py", "--benchmark-only"),
                    *("--device", device, "--benchmark-json", bench, *contests),
                ),
                *(() if gpu else (_module("benchmarks.gpu.pages", str(out)),)),
                _module("benchmarks.report", bench, *(() if gpu else pages)),
            ),
            ("pytest_benchmark", *PRODUCT),
            device=device,
            whole=True,  # a contest that fails costs the others nothing
        ),
    ]


def _trainings(device: str, out: Path) -> list[Part]:
    gpu, run, fashion = device == "cuda", out / "digits", out / "fashion"
    fast = ("--optim.precision", "bf16", "--optim.compile") if gpu else ()
    short = () if gpu else ("--steps", "6", "--optim.save-every", "3", "--preview", "0")
    fashion_short = () if gpu else ("--steps", "2", "--preview", "0", "--optim.batch-size", "16")
    need = {"modules": PRODUCT, "device": device}
    return [
        Part(
            "digits",
            "the digits: trained and measured",
            (
                _module("distillkac.train", "--preset", "demo", "--run", str(run), *fast, *short),
                _module("distillkac.evaluate", str(run), *(() if gpu else ("--num", "60"))),
            ),
            fresh=(run,),
            **need,
        ),
        Part(
            "resume",
            "a training stopped by Ctrl-C and continued, beside one that was not",
            (_module("benchmarks.gpu.resume", "--out", str(out / "resume"), "--device", device),),
            fresh=(out / "resume",),
            **need,
        ),
        Part(
            "two-processes",
            "two processes on one device train as one",
            (_module("benchmarks.gpu.two_processes", "--out", str(out / "two"), "--device", device),),
            fresh=(out / "two",),
            **need,
        ),
        Part(
            "fashion",
            "Fashion-MNIST: trained and measured",
            (
                _module("distillkac.train", "--preset", "fashion", "--run", str(fashion), *fast, *fashion_short),
                *((_module("distillkac.evaluate", str(fashion), "--num", "10000"),) if gpu else ()),
            ),
            path=FASHION,
            fresh=(fashion,),
            **need,
        ),
        Part(
            "throughput",
            "the paper's CIFAR-10 network: images per second, memory",
            (_module("benchmarks.gpu.throughput", "--out", str(out / "throughput-figures.json"), "--device", device),),
            **need,
        ),
    ]


def _from_digits(device: str, out: Path) -> list[Part]:
    """What begins with the run of the part digits."""
    gpu, run = device == "cuda", out / "digits"
    precision = ("--optim.precision", "bf16") if gpu else ()
    need = {"modules": PRODUCT, "device": device, "path": run / "ema.safetensors"}
    distil = ("distillkac.distill", str(run), *precision)
    sample = ("distillkac.sample", str(run), "--model", "teacher")
    return [
        Part(
            "methods",
            "every method of distillation, from the digits",
            tuple(
                _module(*distil, "--out", str(out / "students" / name), *words, *(() if gpu else SMALL[name]))
                for name, words in METHODS.items()
            ),
            fresh=tuple(out / "students" / name for name in METHODS),
            **need,
        ),
        Part(
            "samplers",
            "every sampler, from the digits",
            tuple(
                _module(*sample, "--out", str(out / "samples" / f"{name}.png"), *words)
                for name, words in SAMPLERS.items()
            ),
            **need,
        ),
    ]


def _module(name: str, *words: str) -> tuple[str, ...]:
    return (PYTHON, "-m", name, *words)
