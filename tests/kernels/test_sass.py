"""No CUDA kernel executes more for an element than its committed budget (csrc/tools/sass_budget.json); the tables of
docs/speed.md are what follows from it. No GPU is needed, and no clock."""

import json
import re
import sys

import pytest

from tests.places import CSRC, ROOT

sys.path.insert(0, str(CSRC / "tools"))

import control_flow
import cuda_model
import sass

BUDGET = json.loads(sass.BUDGET.read_text(encoding="utf-8"))
FLOAT32 = BUDGET["sm_90"]
needs_tools = pytest.mark.skipif(sass.missing() is not None, reason=str(sass.missing()))


def verdict(kernel, counted, budget, same_compiler=True):
    """What is wrong with a count, or None. Another compiler's code may be up to 1.3 times as long."""
    for what in ("least", "most", "unit"):
        if counted[what] > budget[what] * (1.03 if same_compiler else 1.3):
            return f"{kernel}, {what}: {counted[what]} for an element, the budget is {budget[what]}; {MEND}"
        if same_compiler and counted[what] < budget[what] * 0.97:
            return f"{kernel}, {what}: {counted[what]} for an element, below the budget of {budget[what]}; {MEND}"
    return None


MEND = "make it cheaper or, if the change is wanted, run: python csrc/tools/sass.py --write"


@needs_tools
@pytest.mark.parametrize("architecture", sass.ARCHITECTURES)
@pytest.mark.parametrize("op", sass.OPS)
def test_within_budget(compiled, op, architecture):
    cubin, log = compiled[op, architecture]
    counted = sass.counts(op, sass.disassemble(cubin), log)
    budget = {name: n for name, n in BUDGET[f"sm_{architecture}"].items() if name.split()[0] == op}
    assert counted.keys() == budget.keys()
    same = sass.compiler() == BUDGET["compiler"]
    problems = [p for name, n in counted.items() if (p := verdict(name, n, budget[name], same))]
    assert problems == []


@needs_tools
def test_one_more_philox_round_is_noticed(tmp_path):
    """Eleven rounds instead of ten: a tenth of the generator's instructions, about 1 for an element."""
    for path in (p for p in CSRC.rglob("*") if p.suffix in (".h", ".cuh", ".cu")):
        copy = tmp_path / "csrc" / path.relative_to(CSRC)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8").replace(
            "round < 10; ++round) {\n    DK_UNROLL", "round < 11; ++round) {\n    DK_UNROLL"
        )
        copy.write_text(text.replace("low[10], high[10];", "low[11], high[11];"), encoding="utf-8")
    cubin, log = sass.compile_op("kac_noise", "90", tmp_path, tmp_path / "csrc")
    name = "kac_noise planar float32"
    counted = sass.counts("kac_noise", sass.disassemble(cubin), log)[name]
    same = sass.compiler() == BUDGET["compiler"]
    assert counted["most"] > FLOAT32[name]["most"] * 1.02 or not same


def test_every_kernel_has_a_budget():
    types, processes, limits = (
        ("float32", "bfloat16", "float16"),
        ("telegraph", "planar", "quad"),
        ("of coordinates", "of pairs", "of fours"),
    )
    variants = {"kac": processes, "gui": limits, "end": ("",)}
    names = {" ".join(f"{op} {v} {t}".split()) for op in sass.OPS for v in variants[op[:3]] for t in types}
    names |= {f"kac_pair to t_to {v} {t}" for v in processes for t in types}
    assert all(set(BUDGET[f"sm_{architecture}"]) == names for architecture in sass.ARCHITECTURES)


@pytest.mark.parametrize(
    ("kernel", "most"),
    [
        ("kac_pair telegraph", 100),
        ("kac_pair planar", 70),
        ("kac_pair to t_to telegraph", 120),
        ("kac_pair to t_to planar", 80),
        ("kac_noise telegraph", 50),
        ("kac_noise planar", 55),
        ("kac_pair quad", 90),
        ("kac_noise quad", 80),
        ("kac_velocity telegraph", 60),
        ("guided_step of coordinates", 26),
        ("endpoint_loss", 22),
    ],
)
def test_hot_paths_are_as_short_as_was_asked(kernel, most):
    assert FLOAT32[f"{kernel} float32"]["most"] <= most


def test_the_page_has_the_tables():
    page = cuda_model.PAGE.read_text(encoding="utf-8")
    assert page.split(cuda_model.BEGIN)[1].split(cuda_model.END)[0].strip() == cuda_model.tables(BUDGET)


def test_verdicts():
    n = {"least": 10, "most": 20, "unit": 5}
    assert verdict("x", n, n) is None
    assert "the budget is 20" in verdict("x", n | {"most": 21}, n)
    assert "below" in verdict("x", n | {"least": 9}, n)
    assert verdict("x", n | {"most": 25, "least": 5}, n, same_compiler=False) is None
    assert "the budget is 5" in verdict("x", n | {"unit": 7}, n, same_compiler=False)


LOOP = """
\t.section\t.text._Zkernel,"ax",@progbits
        /*0000*/                   MOV R0, RZ ;
.L_unit:
        /*0010*/                   IADD3 R0, R0, 0x1, RZ ;
        /*0020*/               @P0 BRA `(.L_tail) ;
.L_group:
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/               @P1 BRA `(.L_cheap) ;
        /*0050*/                   FMUL R4, R4, R5 ;
        /*0060*/                   FMUL R4, R4, R5 ;
        /*0070*/               @P2 BRA `(.L_cheap) ;
        /*0080*/                   CALL.REL.NOINC `($__slowpath) ;
.L_cheap:
        /*0090*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*00a0*/               @P3 BRA `(.L_group) ;
        /*00b0*/                   BRA `(.L_next) ;
.L_tail:
        /*00c0*/               @P4 STG.E desc[UR4][R2.64], R4 ;
        /*00d0*/                   FMUL R4, R4, R5 ;
        /*00e0*/               @P5 BRA `(.L_tail) ;
.L_next:
        /*00f0*/               @P6 BRA `(.L_unit) ;
        /*0100*/                   EXIT ;
"""


def test_the_hot_path_is_found():
    """Of a loop with a slow path, a tail and a branch on data: neither tail nor call, both sides of the branch, the unit."""
    path = control_flow.hot_path(control_flow.functions(LOOP)["_Zkernel"], 16, 4)
    names = [[x.name for x in code] for code in path[1:]]
    assert path.elements == 4
    assert names[0] == ["LDG", "BRA", "STG", "BRA"]
    assert names[1] == ["LDG", "BRA", "FMUL", "FMUL", "BRA", "STG", "BRA"]
    assert names[2] == names[3] == ["IADD3", "BRA", "BRA", "BRA"]


def test_accesses_of_one_element_are_not_a_hot_path():
    """As was found: stores that should have been of 16 bytes, taken apart by the compiler."""
    apart = LOOP.replace("STG.E.128", "STG.E")
    with pytest.raises(ValueError, match="four elements at a time"):
        control_flow.hot_path(control_flow.functions(apart)["_Zkernel"], 16, 4)


def test_an_unknown_instruction_is_refused():
    name = "_ZN10distillkac4cuda20endpoint_loss_kernelIfEEvNS_16EndpointLossArgsE"
    text, log = LOOP.replace("_Zkernel", name).replace("FMUL", "FNEW"), ""
    log = f"ptxas info    : Compiling entry function '{name}' for 'sm_90'\nptxas info    : Function properties for {name}\n"
    with pytest.raises(ValueError, match="add FNEW to CLASSES"):
        sass.counts("endpoint_loss", text, log + "ptxas info    : Used 32 registers")


def test_bounds_by_hand():
    """kac_pair, 12 bytes: 119 instructions an element are what an H100 issues while it moves them; 83 on an H200."""
    counts = dict.fromkeys(("multiply", "integer", "special", "words", "floating", "unit"), 0.0)
    for machine, most in (("H100", 118.6), ("H200", 82.7)):
        at = cuda_model.MACHINES[machine]
        assert cuda_model.share("kac_pair planar float32", counts | {"most": most}, at) == 1
        assert cuda_model.share("kac_pair planar float32", counts | {"most": 2 * most}, at) == pytest.approx(
            0.5, rel=0.01
        )
    assert cuda_model.share("kac_pair planar float32", counts | {"most": 1, "integer": 2 * 59.3}, at) < 0.7


def test_launches_by_hand():
    """128 registers: 4 blocks of 128 threads. 64 rows of 3,072: 128 units on 132 multiprocessors, every second one half."""
    assert cuda_model.resident(128, 1264) == 4
    assert cuda_model.resident(32, 0) == 16
    assert cuda_model.resident(16, 40 * 1024) == 4
    counts = {"registers": 128, "shared bytes": 1264}
    small, large, at = (64, 3, 32, 32), (128, 3, 256, 256), cuda_model.MACHINES["H100"]
    assert cuda_model.launch("kac_pair", small, counts, at) == (
        128,
        4,
        pytest.approx(128 / 528),
        pytest.approx(96 / 132),
    )
    assert cuda_model.launch("guided_step", large, counts, at).blocks == 8192
    # 196,608 elements a row are 24 units of 8,192: of the draws, whose set-up is dear.
    assert cuda_model.launch("kac_pair", large, counts, at).blocks == 128 * 24
    assert [cuda_model.unit_of("kac_noise", (rows, 3, 32, 32)) for rows in (2047, 2048)] == [2048, 8192]


def test_the_model_has_the_constants_of_the_kernels():
    text = (CSRC / "ops" / "cuda_common.cuh").read_text(encoding="utf-8")
    for name, value in (
        ("kThreads", cuda_model.THREADS),
        ("kCudaChunk", cuda_model.UNIT),
        ("kMaxBlocks", cuda_model.MOST_BLOCKS),
        ("kManyUnits", cuda_model.MANY_UNITS),
    ):
        assert re.search(rf"{name} = (\d+);", text)[1] == str(value)
    assert f"kMostDrawn = {cuda_model.LONGEST} * kCudaChunk;" in text
    assert cuda_model.UNIT == cuda_model.THREADS * sass.PER_THREAD
    flags = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert all(flag in flags for flag in ("--fmad=false", "DISTILLKAC_ARCH=cuda", "CUDA_STANDARD 17"))
    assert re.search(r"CMAKE_CUDA_ARCHITECTURES (\S+) (\S+) (\S+)\)", flags).groups() == ("80-real", "90-real", "100")
