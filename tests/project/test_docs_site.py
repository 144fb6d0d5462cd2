"""The documentation as a whole: its navigation, links, and the names of modules and files in its text. Needs no mkdocs.

`make docs` builds the site itself, strictly; what can be known without it is tested here, in every run of the suite.
"""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from tests.places import ROOT

FOLDERS = ("distillkac", "csrc", "docs", "tests", "benchmarks", "examples", ".github", ".ci")
SOURCE = (".py", ".h", ".cpp", ".cu", ".cuh", ".md", ".toml", ".yml", ".bin", ".in", ".txt", ".csv")
NOT_OURS = {  # file names in the text that are the reader's
    "make_pictures.py": "the reader's script, docs/first-hour.md",
}
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"(?<![\w/.-])distillkac(?:\.[A-Za-z_]\w*)+")


def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = hooks()
WRITTEN = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [*WRITTEN, *(ROOT / source for source in HOOKS.SHOWN.values())]
TEXTS += [ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md") if (ROOT / name).exists()]
IDS = [str(path.relative_to(ROOT)) for path in TEXTS]
FILES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
FILES = ["/" + path.relative_to(ROOT).as_posix() for path in FILES] + ["/" + path.name for path in ROOT.iterdir()]


def configuration() -> dict:
    class Loader(yaml.SafeLoader):
        """mkdocs.yml names a Python function, which is not needed here."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def leaves(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(part)]


def without_code(text: str) -> str:
    return re.sub(r"`[^`]*`", "``", BLOCK.sub("", text))


def anchors(path: Path) -> set[str]:
    """The addresses of the headings, as code hosts make them and mkdocs.yml asks for."""
    found = set()
    for title in re.findall(r"^#+ +(.+?) *$", BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = 1
        while slug in found:
            slug, count = f"{slug.removesuffix(f'-{count - 1}')}-{count}", count + 1
        found.add(slug)
    return found


def broken(text: str, path: Path) -> list[str]:
    """The relative links of a text at `path` that lead nowhere."""
    found = []
    targets = [match[3] for match in HOOKS.LINK.finditer(without_code(text))]
    targets += re.findall(r"\]\(([^)\s]+)\)", without_code(text))  # those around a picture too
    targets += [match[2] for match in HOOKS.ATTRIBUTE.finditer(without_code(text))]
    for target in dict.fromkeys(targets):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(target)
    return found


def wrong_names(text: str) -> list[str]:
    """The dotted names of the package in a text that cannot be imported."""
    return [name for name in dict.fromkeys(NAME.findall(text)) if not resolves(name)]


def resolves(name: str) -> bool:
    parts, found = name.split("."), None
    for i in range(len(parts), 0, -1):
        try:
            found, rest = importlib.import_module(".".join(parts[:i])), parts[i:]
            break
        except ModuleNotFoundError as error:
            if error.name and not ".".join(parts).startswith(error.name):
                raise
    for part in rest:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def is_file_of_ours(words: str) -> bool:
    path = words.partition("::")[0]
    if not re.fullmatch(r"[\w.*/-]+", path) or path in NOT_OURS:
        return False
    return path.endswith(SOURCE) or (path.split("/")[0] in FOLDERS and "/" in path)


def missing_files(text: str) -> list[str]:
    """Of the code spans, and of the code blocks that list our folders, what looks like a file of this repository and is not
    there. A file may be called by the end of its path; `test_x.py::test_y` must be a function of it."""
    spans = [span for span in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)) if is_file_of_ours(span)]
    starts = "|".join(map(re.escape, FOLDERS))
    for block in BLOCK.findall(text):
        spans += [word.rstrip(".") for word in re.findall(rf"(?<![\w/.-])(?:{starts})/[\w./*-]*", block)]
    return [span for span in dict.fromkeys(spans) if not is_there(span)]


def is_there(span: str) -> bool:
    path, _, test = span.partition("::")
    pattern = re.compile(".*/" + re.escape(path.rstrip("/")).replace(r"\*", "[^/]*"))
    found = [file for file in FILES if pattern.fullmatch(file)]
    if test:
        found = [
            f
            for f in found
            if re.search(rf"^ *def {re.escape(test)}\b", Path(f"{ROOT}{f}").read_text(encoding="utf-8"), re.MULTILINE)
        ]
    return bool(found)


def test_every_page_is_in_the_navigation_and_there():
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in WRITTEN] + list(HOOKS.SHOWN)
    assert sorted(leaves(configuration()["nav"])) == sorted(pages)


@pytest.mark.parametrize("path", TEXTS, ids=IDS)
def test_links_lead_somewhere(path):
    assert not broken(path.read_text(encoding="utf-8"), path)


@pytest.mark.parametrize("page", [*HOOKS.SHOWN, *(p.relative_to(ROOT / "docs").as_posix() for p in WRITTEN)])
def test_links_lead_somewhere_in_the_site_too(page):
    """After the hook: pages and files of docs/, from where the page lies in the site."""
    source = ROOT / HOOKS.SHOWN.get(page, f"docs/{page}")
    there = ROOT / "docs"
    text = without_code(HOOKS.relinked(source.read_text(encoding="utf-8"), page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + [m[2] for m in HOOKS.ATTRIBUTE.finditer(text)]:
        name = target.partition("#")[0]
        if name and not re.match(r"[a-z]+:", name):
            file = ((there / page).parent / re.sub(r"[.]html$", ".md", name)).resolve()
            shown = file.parent == there and file.name in HOOKS.SHOWN
            assert shown or (file.is_relative_to(there) and file.exists()), target


@pytest.mark.parametrize("path", [p for p in TEXTS if p.name != "CHANGELOG.md"], ids=lambda p: str(p.relative_to(ROOT)))
def test_names_of_the_package_exist(path):
    """The changelog may speak of what is gone; everything else may not."""
    text = path.read_text(encoding="utf-8")
    assert not wrong_names(text)
    assert not missing_files(text)


def test_mistakes_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title, here\n\n# A title, here\n", encoding="utf-8")
    assert not broken("[a](page.md#a-title-here) [b](page.md#a-title-here-1) [c](https://x.y/z) `[d](gone.md)`", page)
    text = '[a](gone.md) [b](page.md#a-titel) [![c](gone.png)](https://x.y) [![d](page.md)](gone.html) <img src="gone.gif">'
    assert sorted(broken(text, page)) == ["gone.gif", "gone.html", "gone.md", "gone.png", "page.md#a-titel"]
    assert wrong_names("distillkac.ops.kac_noise, distillkac.ops.kac_nose `distillkac.gone` and distillkac.") == [
        "distillkac.ops.kac_nose",
        "distillkac.gone",
    ]
    text = "`test_docs_site.py::test_mistakes_are_seen` `tests/test_gone.py` `mkdocs.yml` `sample.png` `csrc/`\n"
    assert missing_files(
        text + "`test_docs_site.py::test_gone` `csrc/ops/gone.h`\n```\ncsrc/gone/x.h  what\n```\n"
    ) == [
        "tests/test_gone.py",
        "test_docs_site.py::test_gone",
        "csrc/ops/gone.h",
        "csrc/gone/x.h",
    ]
    assert HOOKS.relinked("[a](../docs/method.md#x) [b](ops/a.h) ![c](../docs/images/c.png)", "kernels.md") == (
        "[a](method.md#x) b ![c](images/c.png)"
    )
    assert HOOKS.relinked('[![a](docs/a.png)](LICENSE) <a href="docs/data.md">\n```\n[b](c.md)\n```\n', "index.md") == (
        '![a](a.png) <a href="data.html">\n```\n[b](c.md)\n```\n'
    )
    assert (
        HOOKS.relinked("[a](../../csrc/README.md) [b](../method.md)", "api/ops.md")
        == "[a](../kernels.md) [b](../method.md)"
    )
