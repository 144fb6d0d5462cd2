"""For mkdocstrings: our docstrings are plain text of at most 120 columns, which is made Markdown that reads the same.

A line that could have held the next word was ended on purpose, and stays one; other lines are joined. What is indented as a
whole is a formula or a table, and is shown as it stands.
"""

import re
import textwrap
from itertools import pairwise

import griffe

COLUMNS = {griffe.Kind.MODULE: 120, griffe.Kind.CLASS: 116, griffe.Kind.ATTRIBUTE: 116}
IN_A_CLASS = 112


class AsWritten(griffe.Extension):
    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is not None:
            method = obj.is_function and obj.parent is not None and obj.parent.is_class
            columns = IN_A_CLASS if method else COLUMNS.get(obj.kind, 116)
            obj.docstring.value = markdown(obj.docstring.value, columns)


def markdown(text: str, columns: int) -> str:
    """A docstring, whose lines have up to `columns` characters, as Markdown."""
    return "\n\n".join(_paragraph(part, columns) for part in re.split(r"\n\s*\n", text.strip("\n")))


def _paragraph(text: str, columns: int) -> str:
    lines = text.split("\n")
    if lines[0].startswith("    "):
        return f"```text\n{textwrap.dedent(text)}\n```"
    joined = [lines[0]]
    for before, line in pairwise(lines):
        fits = len(before) + 1 + len(line.split()[0]) <= columns
        if line.startswith("- ") or (fits and not line.startswith(" ")):
            joined.append(line)
        else:
            joined[-1] += " " + line.strip()
    result, listed = "", False
    for line in map(_escaped, joined):
        item = line.startswith("- ")
        # A list needs an empty line around it; two lines that are none need a break.
        result += ("" if not result else "\n" if item and listed else "\n\n" if item or listed else "  \n") + line
        listed = item
    return result


def _escaped(line: str) -> str:
    """Stars, brackets and the like as they are, outside of `code`."""
    parts = re.split(r"(`[^`]*`)", " ".join(line.split()))
    parts[::2] = [re.sub(r"([*_>|\[\]\\])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "".join(parts).replace("docs/method.md", "[the method](../method.md)")
