"""Options of the runs that tests resume."""

from distillkac.runs import checkpoints

TINY = ["--network.channels", "8", "--network.head-dim", "8", "--optim.batch-size", "16", "--preview", "0"]
CHAIN = ["--stages", "4,2,1", "--steps", "2", "2", "--optim.batch-size", "16"]


def weights(folder):
    return (folder / checkpoints.EMA).read_bytes()
