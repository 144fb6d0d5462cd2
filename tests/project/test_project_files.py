"""What is around the package: workflows, the tools that they run, forms, the commit hook, the citation.

Whether GitHub takes them is another question: `actionlint` and `check-jsonschema` answer the part of it that needs no GitHub.
"""

import re
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import distillkac
from tests.places import ROOT

GITHUB = ROOT / ".github"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
ADDRESS = PROJECT["urls"]["Source"]

if not GITHUB.is_dir():
    pytest.skip("an sdist holds no workflows", allow_module_level=True)

WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((GITHUB / "workflows").iterdir())
}
JOBS = {f"{name}:{job}": body for name, workflow in WORKFLOWS.items() for job, body in workflow["jobs"].items()}
STEPS = [(job, step) for job, body in JOBS.items() for step in body["steps"]]
# All that any job may do beyond reading the repository.
RIGHTS = {
    "docs.yml:deploy": {"pages": "write", "id-token": "write"},
    "release.yml:publish": {"id-token": "write"},
    "release.yml:github": {"contents": "write", "actions": "write"},
}


def commands():
    """(job, command) of every line that a workflow runs, a `&&` chain taken apart."""
    return [(job, part.strip()) for job, step in STEPS if "run" in step for part in step["run"].split("&&")]


def test_the_workflows_there_are():
    assert set(WORKFLOWS) == {"ci.yml", "docs.yml", "nightly.yml", "release.yml"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_rights_are_least(name):
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    events = workflow[True]  # YAML reads the key `on` as true
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(
        events
    )  # run with rights that others steer
    for job in workflow["jobs"]:
        assert JOBS[f"{name}:{job}"].get("permissions", {}) == RIGHTS.get(f"{name}:{job}", {})
    assert "secrets." not in (GITHUB / "workflows" / name).read_text(encoding="utf-8")


def test_a_job_with_an_identity_runs_nothing_of_the_repository():
    for job in (job for job, rights in RIGHTS.items() if "id-token" in rights):
        assert not [step for step in JOBS[job]["steps"] if "run" in step or "checkout" in step.get("uses", "")], job


@pytest.mark.parametrize(("job", "body"), JOBS.items(), ids=JOBS)
def test_jobs_end_and_run_on_a_named_system(job, body):
    assert 0 < body["timeout-minutes"] <= 360
    runners = body.get("strategy", {}).get("matrix", {}).get("runner", [body["runs-on"]])
    assert {runner.removesuffix("-arm") for runner in runners} == {"ubuntu-24.04"}


def test_actions_are_pinned_to_a_commit_with_its_version_beside_it():
    """One commit for each action, everywhere: what reads `uses` in its file, the remark included."""
    used = {}
    for path in (GITHUB / "workflows").iterdir():
        for line in re.findall(r"uses: *(.*)", path.read_text(encoding="utf-8")):
            found = re.fullmatch(r"((?:actions|pypa)/[\w-]+)@([0-9a-f]{40})  # (v\d+\.\d+\.\d+)", line)
            assert found, f"{path.name}: {line}"
            used.setdefault(found[1], set()).add(found.group(2, 3))
    assert {name: len(pins) for name, pins in used.items()} == dict.fromkeys(used, 1)


def test_credentials_are_not_kept():
    checkouts = [step for _, step in STEPS if step.get("uses", "").startswith("actions/checkout")]
    assert len(checkouts) >= 10
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_no_expression_is_put_into_a_shell():
    """A branch's name is text of whoever made it: the shell reads it from a variable."""
    assert not [step["run"] for _, step in STEPS if "${{" in step.get("run", "")]


def test_what_workflows_run_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    pinned = {
        line.partition("==")[0]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    for job, command in commands():
        words = command.split()
        if words[0] == "make":
            assert words[1] in targets, (job, command)
            for name in re.findall(r"\b([A-Z_]+)=", command):
                assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), (job, command)
        elif words[0].startswith("python") and words[1] == "-m" and words[2] == "pip":
            assert words[3:6] == ["install", "-c", "constraints.txt"], (job, command)
            assert set(words[6:]) <= pinned, (job, command)
        elif words[0].startswith("python") and words[1].startswith("tools/"):
            assert (ROOT / words[1]).exists(), (job, command)
    said = {command for _, command in commands()}
    assert {"make lint", "make test", "make package", "make docs"} <= said


def test_pythons_are_those_of_the_metadata():
    allowed = SpecifierSet(PROJECT["requires-python"])
    versions = WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"]
    for _, step in STEPS:
        if step.get("uses", "").startswith("actions/setup-python") and "matrix" not in step["with"]["python-version"]:
            versions = [*versions, step["with"]["python-version"]]
    assert all(allowed.contains(version) for version in versions)
    assert f">={min(versions, key=Version)}" == PROJECT["requires-python"]
    lowest = WORKFLOWS["nightly.yml"]["jobs"]["lowest-versions"]["steps"][1]["with"]["python-version"]
    assert f">={lowest}" == PROJECT["requires-python"]
    wheels = [f"{word[2]}.{word[3:-2]}" for word in PYPROJECT["tool"]["cibuildwheel"]["build"].split()]
    assert set(versions) - {"3.12"} <= set(wheels)
    assert all(allowed.contains(version) for version in wheels)


def test_ci_is_what_a_change_must_pass():
    """The same checks by the two ways in, and by the hook that runs before a commit."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    said = [command for job, command in commands() if job.startswith("ci.yml")]
    assert {"make lint", "make test"} <= set(said) & set(script)
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (hook,) = repository["hooks"]
    assert (repository["repo"], hook["language"], hook["entry"]) == ("local", "system", "make lint")
    assert hook["pass_filenames"] is False
    files = re.compile(hook["files"])
    for name in ("distillkac/train.py", "csrc/kernels.h", "csrc/ops/kac_noise.cu", "Makefile", "constraints.txt"):
        assert files.search(name), name
    assert not files.search("docs/method.md")


def test_the_nightly_run_is_what_it_says():
    jobs = {name: body["steps"] for name, body in WORKFLOWS["nightly.yml"]["jobs"].items()}
    assert set(jobs) == {"slow", "lowest-versions", "newest-versions", "clang", "aarch64"}
    run = {name: [step["run"] for step in steps if "run" in step] for name, steps in jobs.items()}
    assert 'make test ARGS="-m slow"' in run["slow"]
    assert run["lowest-versions"] == [
        "python tools/lowest_versions.py > lowest.txt",
        "make test CONSTRAINTS=lowest.txt",
    ]
    assert run["newest-versions"] == ["make test CONSTRAINTS=/dev/null"]
    assert WORKFLOWS["nightly.yml"]["jobs"]["clang"]["env"]["CXX"] == "clang++"
    assert JOBS["nightly.yml:aarch64"]["runs-on"] == "ubuntu-24.04-arm"


def test_make_installs_through_the_constraints_it_is_given():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r".*\bpip install\b.*|.*\$\(PIP\) install.*", makefile) == [
        "INSTALL = $(PIP) install -q -c $(CONSTRAINTS)"
    ]
    assert makefile.count("$(INSTALL) ") >= 8
    assert "CONSTRAINTS ?= constraints.txt\n" in makefile


def test_a_release_is_published_only_from_a_tag_and_after_the_tests():
    workflow = WORKFLOWS["release.yml"]
    assert workflow[True]["push"] == {"tags": ["v*"]}
    jobs = workflow["jobs"]
    needs = {name: body.get("needs", []) for name, body in jobs.items()}
    assert needs["github"] == "publish"
    assert set(needs["publish"]) == {"sdist", "wheels", "cuda-wheels"}
    assert all(needs[name] == "check" for name in needs["publish"])
    assert jobs["publish"]["if"] == "github.event_name == 'push' && github.ref_type == 'tag'"
    assert jobs["publish"]["environment"]["name"] == "pypi"
    check = [step["run"] for step in jobs["check"]["steps"] if "run" in step]
    assert check == ['python tools/release.py check "$GITHUB_REF_NAME"', "make lint", "make test"]
    # What goes to PyPI is what has no local version.
    uploads = {}
    for name, body in jobs.items():
        for step in body["steps"]:
            if "upload-artifact" in step.get("uses", ""):
                uploads[name] = step["with"]["name"].partition("-")[0]
    assert uploads == {"sdist": "pypi", "wheels": "pypi", "cuda-wheels": "cuda"}
    assert jobs["publish"]["steps"][0]["with"]["pattern"] == "pypi-*"
    built = [step.get("run") for step in jobs["cuda-wheels"]["steps"]]
    assert built.index("python tools/release.py local cu130") < built.index("python -m cibuildwheel --output-dir dist")
    for name in ("wheels", "cuda-wheels"):
        assert jobs[name]["strategy"]["matrix"]["runner"] == ["ubuntu-24.04", "ubuntu-24.04-arm"]


def test_wheels_leave_torch_out():
    wheels = PYPROJECT["tool"]["cibuildwheel"]
    assert re.findall(r"--exclude (\S+)", wheels["repair-wheel-command"]) == ["libtorch*.so", "libc10*.so"]
    assert "--no-isolation" in wheels["build-frontend"]["args"]
    assert wheels["environment"] == {"DISTILLKAC_CUDA": "OFF"}
    assert wheels["test-command"] == "python -m distillkac.doctor"


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == distillkac.__version__
    assert cited["license"] == PROJECT["license"]
    assert cited["repository-code"] == ADDRESS
    assert cited["references"][0]["identifiers"][0]["value"] == "arXiv:2509.21513"


def test_addresses_are_of_one_place():
    urls = PROJECT["urls"]
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    owner, name = re.fullmatch(r"https://github\.com/([\w-]+)/([\w-]+)", ADDRESS).groups()
    assert urls["Documentation"] == f"https://{owner}.github.io/{name}/"
    assert all(url.startswith(ADDRESS) for label, url in urls.items() if label != "Documentation")


def test_a_bug_report_asks_for_what_is_needed():
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    fields = {field["id"]: field for field in form["body"] if "id" in field}
    for name in ("command", "happened", "expected", "doctor"):
        assert fields[name]["validations"]["required"] is True
    assert "python -m distillkac.doctor" in fields["doctor"]["attributes"]["label"]
    for name in ("bug.yml", "feature.yml"):
        form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
        assert form["name"]
        assert form["description"]
    assert yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "config.yml").read_text(encoding="utf-8")) == {
        "blank_issues_enabled": False
    }


def test_what_is_pinned_is_looked_after():
    kinds = {
        update["package-ecosystem"]
        for update in yaml.safe_load((GITHUB / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    }
    assert kinds == {"github-actions", "pip"}
