"""Tables of figures, as they are printed."""

from collections.abc import Sequence

Columns = Sequence[tuple[str, str, str]]
"""Of each column: title, key of a row, format."""

FIDELITY_COLUMNS = (
    ("steps", "steps", "d"),
    ("w", "w", "g"),
    ("NFE", "nfe", "d"),
    ("FID", "fid", ".3f"),
    ("KID", "kid", ".5f"),
    ("±", "kid_std", ".5f"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("density", "density", ".3f"),
    ("coverage", "coverage", ".3f"),
    ("images/s", "images_per_second", ".0f"),
)


def header(columns: Columns) -> str:
    """The first line of a table."""
    return f"{'':24}" + "".join(f"{title:>10}" for title, _, _ in columns)


def line(row: dict, columns: Columns) -> str:
    """A row of it; what it does not have is left open."""
    cells = (format(row[key], spec) if key in row else "" for _, key, spec in columns)
    return f"{row['name']:24}" + "".join(f"{cell:>10}" for cell in cells)
