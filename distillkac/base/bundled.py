"""Images that come with scikit-learn, found without importing it, which takes longer than reading them."""

from pathlib import Path

from distillkac.base import optional

DIGITS = Path("datasets", "data", "digits.csv.gz")
PHOTOGRAPHS = (Path("datasets", "images", "china.jpg"), Path("datasets", "images", "flower.jpg"))


def find(name: Path) -> Path | None:
    """Where one of these files is; None where it is not."""
    return optional.file_of("sklearn", name)


def of_sklearn(name: Path) -> Path:
    """Where one of these files is. Raises ValueError where it is not."""
    if (path := find(name)) is None:
        raise ValueError(f"the built-in images are scikit-learn's, whose {name} is not there: pip install scikit-learn")
    return path
