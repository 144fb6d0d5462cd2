"""The times of kernels, as far as a CPU goes: it runs in small, and the tables of docs/speed.md are those of the files."""

import json
import re

import pytest
import torch

from benchmarks.gpu import counters, kernel_page, kernels
from distillkac.base import files

H200 = json.loads((kernel_page.RESULTS / "nvidia-h200.json").read_text(encoding="utf-8"))


def test_it_runs_in_small_and_keeps_what_it_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(kernels, "SHAPES", {"cpu": ((2, 1, 8, 8), (3, 1, 4, 4))})
    monkeypatch.setattr(kernels, "machine", lambda device: {"gpu": f"NVIDIA {device}"})
    out, results = tmp_path / "kernels-figures.json", tmp_path / "results" / "nvidia-cpu.json"
    results.parent.mkdir()
    results.write_text(
        '{"machine": {"gpu": "NVIDIA cpu", "driver": "1"}, "counters": {"date": "then", "rows": [{"kernel": "x"}]}}',
        encoding="utf-8",
    )
    assert kernels.main(["--device", "cpu", "--out", str(out), "--results", str(tmp_path / "results")]) == 0
    table = json.loads(out.read_text(encoding="utf-8"))
    assert [len(row) for row in table["rows"]] == [len(kernels.COLUMNS)] * 2 * 2 * (len(sass_kernels()) + 2)
    assert len(capsys.readouterr().out.splitlines()) == len(table["rows"])
    kept = json.loads(results.read_text(encoding="utf-8"))
    assert kept["machine"] == {"gpu": "NVIDIA cpu"}  # that of the times, whatever it was before
    assert kept["counters"] == {"date": "then", "rows": [{"kernel": "x"}]}
    assert {row["kernel"] for row in kept["times"]["rows"]} == {*sass_kernels(), *kernels.DRAWS_OF_TORCH}
    assert all(row["us"] > 0 and row["copy_us"] > 0 and row["predicted"] is None for row in kept["times"]["rows"])
    assert "| kac_noise quad bfloat16 |" in kernel_page.of_machine(
        {**kept, "machine": H200["machine"], "counters": None}
    )


def sass_kernels() -> set[str]:
    """Those of the budget, but guidance with limits and the step's of fours."""
    names = {name.removesuffix(" float32") for name in kernels.budget()["sm_90"] if name.endswith(" float32")}
    return names - {"guided_velocity of fours", "guided_velocity of pairs", "guided_step of fours"}


def test_each_kernel_is_called_as_it_is_named(monkeypatch):
    """By the bytes that an op is given and returns, which the rate counts on."""
    shape = (2, 1, 8, 8)
    for dtype in kernels.DTYPES:
        for kernel, call in kernels.calls("cpu", dtype, shape):
            made = call()
            given = [value for cell in call.__closure__ or () for value in flat(cell.cell_contents)]
            arrays = {id(x): x for x in (*given, *flat(made)) if isinstance(x, torch.Tensor) and x.shape == shape}
            # Names that are bound but not used by a call are not in its closure; k is bound as a default.
            arrays |= {id(x): x for x in call.__defaults__ or () if isinstance(x, torch.Tensor)}
            assert sum(x.element_size() for x in arrays.values()) == kernels.bytes_of(kernel, dtype), kernel


def test_the_copy_moves_as_many_bytes(monkeypatch):
    """By a clock that says how many bytes a copy between two new arrays reads and writes."""

    def moved(call):
        arrays = call.__defaults__ or ()
        copied = len(arrays) == 2 and all(isinstance(x, torch.Tensor) and x.dim() == 1 for x in arrays)
        return sum(x.nbytes for x in arrays) if copied else 1

    monkeypatch.setattr(kernels, "SHAPES", {"cpu": ((2, 1, 8, 8),)})
    monkeypatch.setattr(kernels, "of_cpu", moved)
    for row in kernels.measured("cpu"):
        assert row["copy_us"] == 128 * kernels.bytes_of(row["kernel"], row["dtype"]), row


def flat(value):
    return value if isinstance(value, tuple) else (value,)


def test_the_clock_of_a_gpu_gives_microseconds_of_a_call(monkeypatch):
    """By a stand-in for CUDA's events, whose clock goes 2 ms at each call: 2000 µs, whatever was warm before."""
    now = [0.0]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def elapsed_time(self, end):
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def call():
        now[0] += 2.0 if now[0] else 100.0  # the first call is slow

    assert kernels.of_gpu(call) == pytest.approx(2000)


def test_predictions_are_of_the_gpu_that_is_there():
    assert kernels.known_machine("NVIDIA H200") == kernels.cuda_model.MACHINES["H200"]
    assert kernels.known_machine("NVIDIA H100 80GB HBM3") == kernels.cuda_model.MACHINES["H100"]
    assert kernels.known_machine("NVIDIA H100 PCIe") is None
    h200 = kernels.known_machine("NVIDIA H200")
    assert kernels.predicted("torch.randn", "float32", h200) is None
    name = "kac_noise telegraph float32"
    share = kernels.cuda_model.share(name, kernels.budget()["sm_90"][name], h200)
    assert kernels.predicted("kac_noise telegraph", "float32", h200) == pytest.approx(share, abs=1e-3)


def test_shares_and_rates_by_hand():
    row = {
        "kernel": "kac_pair planar",
        "dtype": "float32",
        "shape": [10, 100],
        "us": 4.0,
        "copy_us": 3.0,
        "predicted": 0.5,
    }
    assert kernels.cells(row, [row]) == [
        "kac_pair planar",
        "float32",
        "10×100",
        "4.0",
        "3.0",
        "0.75",
        "0.50",
        "0.00",
        "",
    ]
    draws = [
        row | {"kernel": "torch.randn", "us": 8.0},
        row | {"kernel": "kac_noise quad", "us": 10.0, "shape": [10, 100]},
    ]
    assert kernels.cells(draws[1], draws)[-1] == "1.25"
    assert kernels.cells(draws[1] | {"dtype": "bfloat16"}, draws)[-1] == ""  # beside nothing


CSV = """==PROF== Connected to process 1
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"""


def profile(*launches: tuple[str, float]) -> list[str]:
    lines = CSV.splitlines()
    for number, (name, instructions) in enumerate(launches):
        values = dict.fromkeys(counters.METRICS, "2.5") | {
            counters.EXECUTED: f"{instructions:,.0f}",
            counters.REGISTERS: "148",
            counters.STALL.format("long_scoreboard"): "7.32",
        }
        lines += [f'"{number}","1","{name}","{metric}","x","{value}"' for metric, value in values.items()]
    return lines


def test_counters_are_read_for_an_element(tmp_path, capsys):
    pair = "void kac_pair_to_kernel<float, PlanarShared>(KacPairArgs, QuantileTable)"
    elements = kernels.math.prod(kernels.ONCE)
    lines = profile(
        (pair, 50 * elements / 32),
        ("sum_in_order_kernel(const double *)", 1),
        (pair, 1),
        (pair.replace("float", "BFloat16"), 1),
    )
    (row,) = counters.counted(lines, "sm_80")
    assert (row["kernel"], row["executed"], row["registers"]) == ("kac_pair to t_to planar", 50.0, 148)
    assert (row["issue"], row["waits_for"], row["waiting"]) == (2.5, "long scoreboard", 7.3)
    budget, other = (kernels.budget()[name]["kac_pair to t_to planar float32"] for name in ("sm_80", "sm_90"))
    assert budget != other
    assert row["counted"] == pytest.approx(budget["most"] + budget["unit"] / 2, abs=0.06)  # units of 4096, not 2048
    (tmp_path / "ncu.csv").write_text("\n".join(lines), encoding="utf-8")
    of = {"machine": {"gpu": "NVIDIA X", "architecture": "sm_80"}, "times": {"date": "then", "rows": []}}
    (tmp_path / "nvidia-x.json").write_text(json.dumps(of), encoding="utf-8")
    words = [str(tmp_path / "ncu.csv"), str(tmp_path / "nvidia-x.json"), "--commit", "abc"]
    assert counters.main(words) == 0
    kept = json.loads((tmp_path / "nvidia-x.json").read_text(encoding="utf-8"))
    assert kept["counters"]["commit"] == "abc"
    assert kept["counters"]["rows"] == [row]
    assert kept["times"] == {"date": "then", "rows": []}
    (tmp_path / "nvidia-x.json").write_text(json.dumps(of | {"machine": {"gpu": "NVIDIA X"}}), encoding="utf-8")
    with pytest.raises(SystemExit):
        counters.main(words)
    assert "sass.py counted nothing for NVIDIA X" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("void kac_noise_kernel<float, TelegraphShared>(KacNoiseArgs, QuantileTable)", "kac_noise telegraph"),
        ("void quad_velocity_kernel<float>(KacVelocityArgs)", "kac_velocity quad"),
        ("void guided_velocity_kernel<float, 1>(GuidedVelocityArgs)", "guided_velocity of coordinates"),
        ("void guided_step_kernel<float, 4>(GuidedStepArgs)", "guided_step of fours"),
        ("void endpoint_loss_kernel<float>(EndpointLossArgs)", "endpoint_loss"),
        ("void endpoint_loss_kernel<BFloat16>(EndpointLossArgs)", None),
        ("sum_in_order_kernel(const double *, long, float *)", None),
    ],
)
def test_kernels_are_known_by_their_names(name, kernel):
    assert counters.kernel_of(name) == kernel
    assert kernel is None or f"{kernel} float32" in kernels.budget()["sm_90"]


def test_the_page_has_the_tables_of_the_files(tmp_path):
    assert files.marked(kernel_page.PAGE, kernel_page.MARK).strip() == kernel_page.section(kernel_page.RESULTS).strip()
    changed = json.loads(json.dumps(H200))
    changed["times"]["rows"][0]["us"] = 1234.0
    (tmp_path / "changed.json").write_text(json.dumps(changed), encoding="utf-8")
    assert "| 1234.0 |" in kernel_page.section(tmp_path)


def test_figures_in_the_text_are_those_of_the_tables():
    """Of what the page says of the tables; other figures are computed here. What was before is in no table any more."""
    text, _, led_to = (
        kernel_page.PAGE.read_text(encoding="utf-8").partition("**What it says.**")[2].partition("**What the first")
    )
    now = [line.split("|")[3] for line in led_to.partition("### ")[0].splitlines() if line.startswith("| ")][2:]
    ratios = [row["executed"] / row["counted"] for row in H200["counters"]["rows"]]
    large = [row for row in H200["times"]["rows"] if row["shape"][0] == 128]
    rates = [kernels.bytes_of(row["kernel"], row["dtype"]) * 128 * 3 * 65536 / row["copy_us"] / 1e6 for row in large]
    known = set(re.findall(r"\d+\.\d+", files.marked(kernel_page.PAGE, kernel_page.MARK)))
    known |= {f"{min(ratios):.2f}", f"{max(ratios):.2f}", f"{min(rates):.1f}", f"{max(rates):.1f}"}
    known |= {f"{kernels.cuda_model.MACHINES['H200'].copy / 1e12:.1f}"}
    figures = re.findall(r"(?<![\w.])\d+\.\d+", text + " ".join(now))
    assert len(figures) > 15
    assert [figure for figure in figures if figure not in known] == []


def test_the_file_of_the_h200_is_whole():
    """Every kernel twice, in every dtype and shape; a commit and a date for times and counters."""
    rows = [(row["kernel"], row["dtype"], tuple(row["shape"])) for row in H200["times"]["rows"]]
    expected = {(k, d, s) for k in H200_KERNELS for d in kernels.DTYPES for s in kernels.SHAPES["cuda"]}
    assert len(rows) == len(expected)
    assert set(rows) == expected
    assert {row["kernel"] for row in H200["counters"]["rows"]} == H200_KERNELS - {*kernels.DRAWS_OF_TORCH}
    assert all(H200[what][name] for what in ("times", "counters") for name in ("commit", "date"))
    assert kernels.as_json(H200) == (kernel_page.RESULTS / "nvidia-h200.json").read_text(encoding="utf-8")


H200_KERNELS = {row["kernel"] for row in H200["times"]["rows"]}
