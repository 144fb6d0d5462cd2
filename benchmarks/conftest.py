"""Options and fixtures of the benchmarks: the device, the SIMD level, and `race` and `measure`, which keep results.

pytest benchmarks --benchmark-only                      the CPU, every SIMD level it has
pytest benchmarks --benchmark-only --device cuda        a GPU (or DISTILLKAC_BENCH_DEVICE=cuda)
... -k kac_noise, ... --long                            some contests; also what takes minutes
"""

import os

import pytest
import torch

from benchmarks import race as racing
from benchmarks import tables
from distillkac._kernels import native

RESULTS = pytest.StashKey()
LEVELS = ("avx512", "avx2")


def pytest_addoption(parser):
    device = os.environ.get("DISTILLKAC_BENCH_DEVICE", "cpu")
    parser.addoption("--device", choices=("cpu", "cuda"), default=device, help="device of the benchmarks")
    parser.addoption("--long", action="store_true", help="also what takes minutes: the large network's slow contests")


def pytest_configure(config):
    config.stash[RESULTS] = []
    config.option.benchmark_quiet = True  # its table tells the time of whole loops; ours is printed instead
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script_method. is deprecated")  # inductor's own
    if config.getoption("--device") == "cuda":
        if not torch.cuda.is_available():
            raise pytest.UsageError(f"--device cuda: torch {torch.__version__} sees no GPU here")
        if not native.build_info()["cuda"]:
            raise pytest.UsageError("--device cuda: distillkac was built without CUDA kernels")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "gpu" in item.keywords and config.getoption("--device") != "cuda":
            item.add_marker(pytest.mark.skip(reason="needs --device cuda"))


def pytest_generate_tests(metafunc):
    if "level" in metafunc.fixturenames:
        on_cpu = metafunc.config.getoption("--device") == "cpu"
        levels = [name for name in LEVELS if name in native.simd_levels()] or ["portable"]
        metafunc.parametrize("level", levels if on_cpu else ["cuda"], indirect=True)


def pytest_benchmark_update_machine_info(config, machine_info):
    cuda = config.getoption("--device") == "cuda"
    machine_info["distillkac"] = {
        "cpu": machine_info["cpu"].get("brand_raw", machine_info["processor"]),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "simd_levels": native.simd_levels(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{name: native.build_info()[name] for name in ("compiler", "cuda", "commit")},
    }


def pytest_terminal_summary(terminalreporter, config):
    results = config.stash[RESULTS]
    if results:
        terminalreporter.section(
            "contests: ours, then each rival's time over ours (what was asked, where it was missed)"
        )
        for result in results:
            terminalreporter.write_line(tables.line(result))
        below = sum(len(tables.missed(result)) for result in results)
        terminalreporter.write_line(f"{below} bars missed")


@pytest.fixture(scope="session", autouse=True)
def settled_allocator():
    """glibc hands freed memory back to the system, page by page, until it has seen a large block freed. Any process that
    trains has; without this a rival's time would depend on which contests ran before it."""
    torch.empty(31 * 2**20, dtype=torch.uint8).fill_(0)


@pytest.fixture(scope="session")
def device(pytestconfig):
    """The device under test."""
    return torch.device(pytestconfig.getoption("--device"))


@pytest.fixture
def on_cpu(device):
    """For contests that only a CPU has."""
    if device.type != "cpu":
        pytest.skip("on the CPU only")


@pytest.fixture
def one_thread():
    """One torch thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def level(request, one_thread):
    """The SIMD level of this test, "cuda" on a GPU; one torch thread."""
    before = native.simd_level()
    if request.param != "cuda":
        native.set_simd_level(request.param)
    yield request.param
    native.set_simd_level(before)


@pytest.fixture
def race(benchmark, device, pytestconfig):
    """race(ours, rivals, op=..., shape=..., bytes_per_element=..., ...): times ours against rivals and keeps the result.

    ours, rivals' values: functions or race.Rival. Other keywords identify the contest; `rounds` and `seconds` as in
    race.race. Returns the result.
    """

    if not benchmark.enabled:
        pytest.skip("timing is disabled")

    def run(ours, rivals, bytes_per_element=None, rounds=racing.ROUNDS, seconds=racing.SECONDS, **contest):
        ours, *others = (v if isinstance(v, racing.Rival) else racing.Rival(v) for v in (ours, *rivals.values()))
        rivals = dict(zip(rivals, others, strict=True))
        contest = {"level": native.simd_level() if device.type == "cpu" else "cuda"} | contest
        contest = {"threads": torch.get_num_threads() if device.type == "cpu" else None} | contest
        result = racing.race(benchmark, ours, rivals, contest, rounds, seconds)
        if bytes_per_element:
            result |= racing.throughput(result["median"], torch.Size(contest["shape"]).numel(), bytes_per_element)
        return _keep(benchmark, pytestconfig, result)

    return run


@pytest.fixture
def measure(benchmark, device, pytestconfig):
    """measure(function, bars=..., op=..., ...): keeps the dict of figures that function() returns.

    bars: {figure: most it may be}. Other keywords identify the contest.
    """

    def run(function, bars=None, **contest):
        figures = benchmark.pedantic(function, rounds=1, iterations=1)
        contest = {"level": None if device.type == "cpu" else "cuda"} | contest
        results = {name: {"value": value} for name, value in figures.items()}
        for name, bar in (bars or {}).items():
            results[name] |= {"bar": bar, "met": results[name]["value"] <= bar}
        return _keep(benchmark, pytestconfig, {**contest, "figures": results})

    return run


def _keep(benchmark, config, result):
    result = {name: value for name, value in result.items() if value is not None}
    benchmark.group = result["op"]
    benchmark.extra_info.update(result)
    config.stash[RESULTS].append(result)
    return result
