"""The tiny run of the commands."""

import numpy as np

from distillkac import sample
from tests.toys import TINY_OPTIONS

TINY = [*TINY_OPTIONS, "--optim.batch-size", "16", "--optim.log-every", "2"]
CHAIN = ["--stages", "4,2,1", "--steps", "3", "3", "--optim.batch-size", "16"]


def arrays(run, tmp_path, *options):
    out = tmp_path / "samples.npz"
    assert sample.main([str(run), "--out", str(out), *options]) == 0
    with np.load(out) as loaded:
        return loaded["images"], loaded["labels"]
