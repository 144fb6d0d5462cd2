"""The scripts of tools/, which the workflows run: the tag of a release, the version and the index of the CUDA wheels, the
lowest versions of what distillkac needs."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import distillkac
from tests.places import ROOT
from tools import lowest_versions, release, wheel_index

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHA256 = "sha256:" + "0" * 64
CHANGES = """# Changelog

## [Unreleased]

- later

## [1.2.3] - 2026-11-26

### Added

- this

## [1.2.2] - 2026-01-01

- before
"""


@pytest.fixture
def tree(tmp_path):
    """What states a version, released as 1.2.3."""
    (tmp_path / "distillkac").mkdir()
    for name in ("distillkac/__init__.py", "CITATION.cff"):
        text = (ROOT / name).read_text(encoding="utf-8").replace(distillkac.__version__, "1.2.3")
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(CHANGES, encoding="utf-8")
    return tmp_path


def test_the_tag_of_a_release(tree, capsys):
    assert release.main(["check", "v1.2.3"], tree) == 0
    assert release.main(["notes"], tree) == 0
    assert capsys.readouterr().out == "v1.2.3 is 1.2.3, with a section in the changelog\n### Added\n\n- this\n"


@pytest.mark.parametrize(
    ("file", "change", "tag", "said"),
    [
        (None, None, "v1.2.4", "the tag v1.2.4 is not the version 1.2.3 of distillkac.__version__"),
        (None, None, "1.2.3", "a release's tag is vX.Y.Z, got '1.2.3'"),
        (None, None, "v1.2", "a release's tag is vX.Y.Z, got 'v1.2'"),
        (None, None, "v1.2.3rc1", "a release's tag is vX.Y.Z"),
        ("CITATION.cff", ("version: 1.2.3", "version: 1.2.2"), "v1.2.3", "is not the version 1.2.2 of CITATION.cff"),
        ("CHANGELOG.md", ("[1.2.3]", "[1.2.1]"), "v1.2.3", "no text under '## [1.2.3] - YYYY-MM-DD'"),
        ("CHANGELOG.md", (" - 2026-11-26", ""), "v1.2.3", "no text under '## [1.2.3] - YYYY-MM-DD'"),
        ("CHANGELOG.md", ("### Added\n\n- this\n", ""), "v1.2.3", "no text under"),
        ("distillkac/__init__.py", ('__version__ = "1.2.3"', "__version__ = None"), "v1.2.3", "its version once, found 0"),
    ],
)  # fmt: skip
def test_a_tag_that_is_not_this_version_is_refused(tree, capsys, file, change, tag, said):
    if file:
        before = (tree / file).read_text(encoding="utf-8")
        assert change[0] in before
        (tree / file).write_text(before.replace(*change), encoding="utf-8")
    assert release.main(["check", tag], tree) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err


def test_a_wheel_of_one_cuda_has_a_version_of_its_own(tree, capsys):
    assert release.main(["local", "cu130"], tree) == 0
    assert capsys.readouterr().out == "1.2.3+cu130\n"
    program = "import distillkac; print(distillkac.__version__)"
    told = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True, check=True)
    assert told.stdout == "1.2.3+cu130\n"
    assert Version("1.2.3") < Version("1.2.3+cu130") < Version("1.2.4")
    assert release.main(["local", "cu130"], tree) == 1  # once
    assert release.main(["local", "cu-13"], tree) == 1


def test_the_index_of_the_cuda_wheels(tmp_path):
    names = [
        "distillkac-0.1.0+cu130-cp311-cp311-manylinux_2_28_x86_64.whl",
        "distillkac-0.1.0+cu130-cp311-cp311-manylinux_2_28_aarch64.whl",
        "distillkac-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl",  # on PyPI
        "distillkac-0.1.0.tar.gz",
        "other-0.1.0+cu130-py3-none-any.whl",
    ]
    lines = "".join(f"{name}\thttps://host/{name.replace('+', '%2B')}\t{SHA256}\n" for name in names)
    script = ROOT / "tools" / "wheel_index.py"
    subprocess.run([sys.executable, script, tmp_path], input=lines, text=True, check=True)
    page = (tmp_path / "cu130" / "distillkac" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<a href="(.*?)"', page) == [
        f"https://host/{name.replace('+', '%2B')}#sha256={'0' * 64}" for name in sorted(names[:2])
    ]
    assert page.count(f'data-requires-python="{PROJECT["requires-python"].replace(">", "&gt;")}"') == 2
    assert 'href="distillkac/"' in (tmp_path / "cu130" / "index.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cu130"]
    with pytest.raises(ValueError, match="must come with its sha256, got ''"):
        wheel_index.links([f"{names[0]}\thttps://host/x\t\n"])
    assert wheel_index.links([]) == {}


def test_the_lowest_versions_are_those_of_the_metadata():
    lines = lowest_versions.lowest(PROJECT["dependencies"])
    for line, dependency in zip(lines, PROJECT["dependencies"], strict=True):
        name, _, version = line.partition("==")
        requirement = Requirement(dependency)
        assert name == requirement.name
        assert requirement.specifier.contains(version)
        assert not requirement.specifier.contains(f"{version}.dev0", prereleases=True)
    with pytest.raises(ValueError, match="must be NAME>=VERSION, got 'torch'"):
        lowest_versions.lowest(["torch"])
