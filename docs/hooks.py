"""For mkdocs: the start page is the README, with its links as seen from here."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown, page, config, files):
    """Replaces the text of index.md. Links to files outside docs/ become plain text: the site does not hold them."""
    if page.file.src_uri != "index.md":
        return markdown
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](")
    return re.sub(r"(?<!!)\[([^]]+)\]\((?!http|#)(?![\w/.-]+\.md(?:#\S*)?\))[^)]+\)", r"\1", readme)
