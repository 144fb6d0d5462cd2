"""docs/library.md: its programs run one after another, as a reader would paste them, and do what they say."""

import re
import shlex

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from distillkac import distill, train
from distillkac.runs import load_config, open_run
from tests.places import ROOT
from tests.project.test_documented_commands import CHAIN, TINY, blocks

PAGE = ROOT / "docs" / "library.md"
PROGRAMS = [block for block in blocks(PAGE) if block.language == "python"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(folder, names after each program, what each printed): all of them, in one folder, where runs/demo is."""
    root = tmp_path_factory.mktemp("reader")
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert train.main(["--run", "runs/demo", "--steps", "2", *TINY]) == 0
        assert distill.main(["runs/demo", *CHAIN]) == 0
        names, after, printed = {"__name__": "reader"}, [], []
        for block in PROGRAMS:
            lines = []
            names["print"] = lambda *words, lines=lines: lines.append(" ".join(map(str, words)))
            torch.manual_seed(0)
            exec(compile(block.text, block.where, "exec"), names)
            after.append(dict(names))
            printed.append(lines)
    return root, after, printed


def test_every_program_prints_what_stands_beside_it(ran):
    """A remark is what is printed, with "..." for what may be anything, and perhaps ": " and what it means."""
    found = 0
    for block, lines in zip(PROGRAMS, ran[2], strict=True):
        remarks = re.findall(r"print\(.*\)  # (.*)$", block.text, re.MULTILINE)
        assert len(remarks) == len(lines), block.where
        for remark, line in zip(remarks, lines, strict=True):
            found += 1
            pattern = ".*".join(re.escape(part.strip()) for part in remark.split(": ")[0].split("..."))
            assert re.fullmatch(pattern, line), (line, remark)
    assert found == 6


def test_the_first_two_draw_pictures(ran):
    root, after, _ = ran
    assert Image.open(root / "samples.png").size[0] > 100
    assert Image.open(root / "path.gif").n_frames == 21
    assert Image.open(root / "path.png").size[1] > 100
    samples = after[1]["samples"]
    assert torch.equal(samples.path[-1], samples.images)
    assert samples.times[0] == 1
    assert samples.times[-1] == 0


def test_the_third_leaves_a_run(ran):
    root, after, _ = ran
    names, folder = after[2], root / "runs" / "own"
    saved = load_config(folder)
    assert saved.noise.process == "planar"
    assert saved.data.path == "python://ImageDataset"
    assert saved.network.module == "reader.Net"
    assert saved.label_drop == 0.1
    assert (folder / "samples" / "step-000100.png").exists()
    assert (folder / "curves.png").exists()
    opened = open_run(folder, network=names["Net"]()).network.state_dict()
    assert all(torch.equal(value, opened[name]) for name, value in names["run"].network.state_dict().items())
    # It has learned: the loss of its last steps is well below that of a network that answers 0.
    x0, y = names["dataset"].__getitems__(range(500))
    t = torch.rand(500, generator=torch.Generator().manual_seed(0))
    x_t, u = names["run"].process.pair(x0, t, seed=1)
    with torch.no_grad():
        assert (names["run"].network(x_t, t, y) - u).square().mean() < 0.8 * u.square().mean()


def test_the_fourth_makes_students_that_land_where_the_teacher_does(ran):
    _, after, _ = ran
    names = after[3]
    run, students = names["run"], names["students"]
    assert [student.config.student.num_steps for student in students] == [2, 1]
    assert all(type(student.network) is names["Net"] for student in students)
    assert names["few"].images.shape == (20, 1, 8, 8)
    fresh = torch.equal(students[0].network.first.weight, run.network.first.weight)
    assert not fresh, "the student was not trained"


def test_the_fifth_draws_by_hand(ran):
    x = ran[1][4]["x"]
    assert x.shape == (10, 1, 8, 8)
    assert torch.isfinite(x).all()
    assert not x.requires_grad


def test_an_own_data_set_follows_the_protocol(ran):
    stripes = next(names["Stripes"] for names in ran[1] if "Stripes" in names)()
    x, y = stripes.__getitems__([0, 1, 2, 0])
    assert x.shape == (4, 1, 8, 8)
    assert torch.equal(x[0], x[3])
    assert y.tolist() == [0, 1, 0, 0]
    assert (x[1] == x[1][:, :1]).all()  # standing stripes: every line is the same
    assert (x[0] == x[0][:, :, :1]).all()


def test_the_own_objective_left_a_run(ran):
    root, after, _ = ran
    assert after[-1]["fit"].finished
    assert load_config(root / "runs" / "near").data.path == "python://ImageDataset"


def test_commands_of_the_page_are_verbs():
    lines = [line for block in blocks(PAGE) if block.language == "bash" for line in block.text.splitlines()]
    assert sum(shlex.split(line)[0] == "distillkac" for line in lines) >= 4
