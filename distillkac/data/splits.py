"""Which parts of a data set are learned from and which are measured against: one set of names for every source."""

import re
from collections.abc import Sequence
from pathlib import Path

TRAIN = ("train", "training")
# The first that is there is used. The names that the library `datasets` knows.
TEST = ("test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev")


def role(name: str) -> str | None:
    """ "train" or "test" for a name that means a split, whatever its case; None for any other name."""
    name = name.casefold()
    return "train" if name in TRAIN else "test" if name in TEST else None


def words(name: str) -> list[str]:
    """The words of a name that mean a split: of train2017 or my-test_1 the one, of contest none."""
    return [word for word in re.split(r"[\W\d_]+", name) if role(word)]


def choose_splits(where: Path | str, names: Sequence[str]) -> tuple[str | None, str | None, list[str]]:
    """(the name to learn from, the name to measure against, names of splits that are left unread), each None if absent.

    names: of everything that may be a split; names that mean none are passed over. Raises ValueError if two names mean
    the same split, as "train" and "Training" do.
    """
    chosen, unread = {}, []
    for part, known in (("train", TRAIN), ("test", TEST)):
        found = sorted((name for name in names if role(name) == part), key=lambda name: known.index(name.casefold()))
        folded = [name.casefold() for name in found]
        if (part == "train" and len(found) > 1) or len(set(folded)) < len(folded):
            raise ValueError(f"{where}: {' and '.join(found)} both name the {part} split; keep one of them")
        chosen[part] = found[0] if found else None
        unread += found[1:]
    return chosen["train"], chosen["test"], unread


def are_splits(names: Sequence[str]) -> bool:
    """Whether folders of these names, all that stand beside each other, are splits: a train split and nothing but splits.

    Beside other folders "train" and "test" are classes: they may well hold pictures of trains.
    """
    return any(role(name) == "train" for name in names) and all(role(name) is not None for name in names)
