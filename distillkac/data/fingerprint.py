"""What tells a run its images again: how many of each class, and digests of what is cheap to know of them.

Files and archives are known by their names below the data's own folder and by their sizes, tables by the sizes of their
images, arrays by their content; each with its class and in order. So the same data may lie anywhere, and other data are
noticed without reading every image, unless one is replaced by another of its name and size to the byte.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from distillkac.base.paths import encode
from distillkac.data.config import Fingerprint


def of_marks(
    train: Iterable[str], labels: torch.Tensor, test: Iterable[str], test_labels: torch.Tensor, num_classes: int
) -> Fingerprint:
    """train, test: a word about each image. labels, test_labels: their classes."""
    return Fingerprint(
        _counts(labels, num_classes),
        _counts(test_labels, num_classes),
        _digest(map(encode, train), labels),
        _digest(map(encode, test), test_labels),
    )


def of_arrays(
    images: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, test_labels: torch.Tensor, num_classes: int
) -> Fingerprint:
    """images, test: (N, C, H, W) pixels; their content counts."""
    return Fingerprint(
        _counts(labels, num_classes),
        _counts(test_labels, num_classes),
        _digest(_content(images), labels),
        _digest(_content(test), test_labels),
    )


def of_words(words: Iterable[str]) -> Fingerprint:
    """Of data that are known by nothing else than these words, a stream for example."""
    digest = _digest(map(encode, words), torch.empty(0, dtype=torch.int64))
    return Fingerprint((), (), digest, digest)


def difference(before: Fingerprint, names: Sequence[str], now: Fingerprint, names_now: Sequence[str]) -> str | None:
    """How the data differ from what they were, in words; None if they are the same.

    names, names_now: of the classes.
    """
    if (before, tuple(names)) == (now, tuple(names_now)):
        return None
    counts, counts_now = _by_class(before, names), _by_class(now, names_now)
    known, known_now = set(names), set(names_now)
    parts = _told([name for name in names if name not in known_now], "gone")
    parts += _told([name for name in names_now if name not in known], "new")
    if not parts and sorted(names) == sorted(names_now) and tuple(names) != tuple(names_now):
        parts.append("the classes are numbered in another order")
    if (change := sum(counts_now.values()) - sum(counts.values())) and names_now:
        changed = [n for n in counts if n in counts_now and counts[n] != counts_now[n]]
        where = f", of class {changed[0]!r}" if len(changed) == 1 and len(names) > 1 and not parts else ""
        more = "more" if change > 0 else "fewer"
        count = f"{abs(change)} image{'s' if abs(change) > 1 else ''}"
        parts.append(f"{count} {more} ({sum(counts_now.values())} for {sum(counts.values())}){where}")
    elif counts != counts_now and not parts:
        parts.append("images of other classes")
    if not parts and before.train != now.train:
        parts.append(f"{sum(now.train)} images are there to learn from, not {sum(before.train)}")
    if not parts:
        others = [
            part
            for part, same in (
                ("to learn from", before.train_digest == now.train_digest),
                ("to measure against", before.test_digest == now.test_digest),
            )
            if not same
        ]
        parts.append(
            f"as many images, but others {' and '.join(others)}, by their names, sizes, classes or order"
            " (or an earlier version of distillkac has split images of more than 128 KiB otherwise: train on them anew)"
        )
    return ", ".join(parts)


def _told(names: list[str], what: str) -> list[str]:
    more = [f"{len(names) - 3} more classes are {what}"] if len(names) > 3 else []
    return [f"class {name!r} is {what}" for name in names[:3]] + more


def _by_class(fingerprint: Fingerprint, names: Sequence[str]) -> Counter:
    return Counter(dict(zip(names, fingerprint.train, strict=False))) + Counter(
        dict(zip(names, fingerprint.test, strict=False))
    )


def _counts(labels: torch.Tensor, num_classes: int) -> tuple[int, ...]:
    return tuple(torch.bincount(labels, minlength=num_classes).tolist())


def _content(images: torch.Tensor) -> Iterable[bytes]:
    yield f"{images.dtype} {tuple(images.shape)}".encode()
    # In parts, for a batch of the tensor need not be contiguous.
    for part in images.split(1000):
        yield part.contiguous().numpy().tobytes()


def _digest(words: Iterable[bytes], labels: torch.Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for word in words:
        digest.update(len(word).to_bytes(8, "little"))
        digest.update(word)
    digest.update(labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
