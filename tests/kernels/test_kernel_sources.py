"""The house of csrc/: no room includes a higher one, a forgotten choice does not compile, its README names what is there."""

import os
import re
import shutil
import subprocess

import pytest

from tests import standalone

ROOT = standalone.ROOT
CSRC = ROOT / "csrc"
ROOMS = (
    ("kernels.h",),
    ("lanes",),
    ("random", "row.h"),
    ("telegraph", "planar", "network"),
    ("quad",),
    ("ops",),
    ("binding",),
)  # lowest first
GENERATED = {"quantile_table.inc", "build_stamp.h"}


def sources(csrc):
    return sorted(p for p in csrc.rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))


def wrong_includes(csrc):
    """Includes of nothing, of a higher room, or of another room on the same floor."""
    floor = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    wrong = []
    for path in sources(csrc):
        room = path.relative_to(csrc).parts[0]
        for name in set(re.findall(r'^#include "(.*)"', path.read_text(encoding="utf-8"), re.MULTILINE)) - GENERATED:
            target = (path.parent / name).resolve()
            other = target.relative_to(csrc.resolve()).parts[0] if target.exists() else None
            if other is None or (other != room and floor[other] >= floor[room]):
                wrong.append(f"{path.relative_to(csrc)}: {name}")
    return wrong


def test_no_room_includes_a_higher_one():
    assert wrong_includes(CSRC) == []


def test_a_wrong_include_is_noticed(tmp_path):
    shutil.copytree(CSRC, tmp_path / "csrc")
    for place, name in (("planar/flight.h", "../ops/chunks.h"), ("random/philox.h", "../row.h"), ("row.h", "lost.h")):
        with (tmp_path / "csrc" / place).open("a") as file:
            file.write(f'#include "{name}"\n')
    assert wrong_includes(tmp_path / "csrc") == [
        "planar/flight.h: ../ops/chunks.h",
        "random/philox.h: ../row.h",
        "row.h: lost.h",
    ]


def compile_with(folder, old, new):
    """Checks the two ops that make every choice, with `old` in kernels.h replaced."""
    shutil.copytree(CSRC, folder / "csrc")
    header = folder / "csrc" / "kernels.h"
    text = header.read_text(encoding="utf-8")
    assert text.count(old) == 1
    header.write_text(text.replace(old, new), encoding="utf-8")
    flags = ["-std=gnu++20", "-fsyntax-only", "-DDISTILLKAC_ARCH=portable", *standalone.cmake_flags("WARNINGS")]
    return [
        subprocess.run(
            ["g++", *flags, str(folder / "csrc" / "ops" / f"{op}.cpp")],
            capture_output=True,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
        )
        for op in ("kac_pair", "guided_velocity")
    ]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("last", ["kExp = 2", "kQuadratic = 1", "kQuad = 2", "kFloat16 = 2"])
def test_a_choice_that_is_served_nowhere_does_not_compile(tmp_path, last):
    """A new schedule, process or dtype is not taken for one that was there."""
    assert all(run.returncode == 0 for run in compile_with(tmp_path / "as it is", last, last))
    found = [run.stderr for run in compile_with(tmp_path / "new", last, f"{last}, kNew = 9") if run.returncode]
    assert found
    assert all("kNew' not handled in switch" in text for text in found)


def test_the_readme_names_files_that_exist():
    text = (CSRC / "README.md").read_text(encoding="utf-8")
    names = set(re.findall(r"[\w./*-]+\.(?:h|cpp|cu|cuh|py|bin|md|txt)\b", text))
    assert len(names) > 50
    lost = [name for name in names if not any(ROOT.glob(name)) and not any(CSRC.rglob(name))]
    assert lost == []


@pytest.mark.parametrize("kind", ["cpp", "cu"])
def test_every_op_that_is_built_has_its_file(kind):
    built = standalone.cmake_flags("OPS")
    files = {path.stem for path in (CSRC / "ops").glob(f"*.{kind}")} - {"cpu_ops"}
    assert files == set(built)


def test_every_layer_that_is_built_has_its_file():
    assert {path.stem for path in (CSRC / "network").glob("*.cpp")} == set(standalone.cmake_flags("LAYERS"))
