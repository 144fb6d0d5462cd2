"""For mkdocs: some files outside docs/ are pages too, and links that are right in the repository are made right in the site."""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {"index.md": "README.md", "kernels.md": "csrc/README.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site that are no files of docs/: what each shows."""

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PICTURE = r"!\[[^\]]*\]\([^)]*\)"
LINK = re.compile(rf"(!?)\[((?:{PICTURE}|[^\[\]])*)\]\(([^)\s]+)\)")
ATTRIBUTE = re.compile(r"""\b(src|srcset|href)="([^"]+)\"""")


def on_files(files, config):
    from mkdocs.structure.files import File

    for page, source in SHOWN.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    return relinked(markdown, page.file.src_uri)


def relinked(text: str, page: str) -> str:
    """The text of a page with its links as the site needs them, but for code blocks.

    Links to files of the repository that the site does not hold become plain text.
    """
    parts, end = [], 0
    for block in FENCE.finditer(text):
        parts += [_relinked(text[end : block.start()], page), block[0]]
        end = block.end()
    return "".join([*parts, _relinked(text[end:], page)])


def _relinked(text: str, page: str) -> str:
    def link(match):
        picture, words, target = match.groups()
        words, there = _relinked(words, page), _in_site(target, page)
        return words if there is None and not picture else f"{picture}[{words}]({there or target})"

    def attribute(match):
        there = _in_site(match[2], page) or match[2]
        return f'{match[1]}="{re.sub(r"[.]md(?=#|$)", ".html", there) if match[1] == "href" else there}"'

    return ATTRIBUTE.sub(attribute, LINK.sub(link, text))


def _in_site(target: str, page: str) -> str | None:
    """The target of a link of this page's source, as seen from the page; None if the site does not hold it."""
    if re.match(r"[a-z]+:|#", target):
        return target
    path, hash_, anchor = target.partition("#")
    source = SHOWN.get(page, f"docs/{page}")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    pages = {shown: name for name, shown in SHOWN.items()}
    if file not in pages and not file.startswith("docs/"):
        return None
    there = pages.get(file, file.removeprefix("docs/"))
    return posixpath.relpath(there, posixpath.dirname(page) or ".") + hash_ + anchor
