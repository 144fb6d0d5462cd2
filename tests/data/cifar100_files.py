"""CIFAR-100's files, a few images of each split, in both versions."""

import pickle

import numpy as np

FINE = tuple(f"fine_{i}" for i in range(100))
COARSE = tuple(f"coarse_{i}" for i in range(20))
COUNTS = {"train": 120, "test": 30}


def parts():
    """{split: (images (N, 3, 32, 32) uint8, fine labels, coarse labels)}; every class is in the train split."""
    source = np.random.default_rng(3)
    made = {}
    for split, count in COUNTS.items():
        fine = np.arange(count) * 7 % 100
        made[split] = source.integers(0, 256, (count, 3, 32, 32), np.uint8), fine, fine % 20
    return made


def write_binary(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, fine, coarse) in parts().items():
        rows = np.concatenate([np.stack([coarse, fine], 1).astype(np.uint8), images.reshape(len(images), -1)], 1)
        (folder / f"{split}.bin").write_bytes(rows.tobytes())
    for kind, names in (("fine", FINE), ("coarse", COARSE)):
        (folder / f"{kind}_label_names.txt").write_text("\n".join(names) + "\n")
    return folder


def write_pickled(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, fine, coarse) in parts().items():
        batch = {
            b"data": images.reshape(len(images), -1),
            b"fine_labels": fine.tolist(),
            b"coarse_labels": coarse.tolist(),
            b"filenames": [b"x.png"] * len(images),
        }
        (folder / split).write_bytes(pickle.dumps(batch, protocol=2))
    meta = {
        f"{kind}_label_names".encode(): [n.encode() for n in names]
        for kind, names in (("fine", FINE), ("coarse", COARSE))
    }
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder
