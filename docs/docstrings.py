"""For mkdocstrings: our docstrings are written to be read as they stand, so all but the first paragraph is shown as text.

Markdown would join the lines and take the stars of `(B, *size)` and `c*t` for emphasis.
"""

import re

import griffe


class AsWritten(griffe.Extension):
    def on_instance(self, *, obj, **kwargs):
        if obj.docstring is None:
            return
        first, _, rest = obj.docstring.value.partition("\n\n" if "\n\n" in obj.docstring.value else "\n")
        words = re.sub(r"([*_<>|\[\]])", r"\\\1", first).replace("docs/method.md", "[the method](../method.md)")
        obj.docstring.value = f"{words}\n\n```text\n{rest}\n```" if rest else words
