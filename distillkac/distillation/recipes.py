"""Ready-made distillations, by name: what `distill --recipe` starts from.

Those of a publication are as published but for what is said beside them; docs/recipes.md, "Published settings", has the same.
"""

from dataclasses import replace

from distillkac.distillation.inverse_options import InverseConfig
from distillkac.distillation.pairs_options import PairsConfig
from distillkac.distillation.stages import DistillConfig
from distillkac.runs.optim_config import OptimConfig

# Adam at a constant rate.
_PUBLISHED = OptimConfig(lr_end=1.0, weight_decay=0.0, save_every=5000)
_REALUID = InverseConfig(
    steps=133_333,
    alpha=0.98,
    beta=0.96,
    fake_updates=5,
    lr=3e-5,
    fake_lr=3e-5,
    warmup=500,
    beta2=0.999,
    ema=0.9996,
    start="teacher",
)
_REALUID_OPTIM = replace(_PUBLISHED, batch_size=256, decays=(0.999, 0.9999))
_FAST = replace(DistillConfig().optim, optimizer="muon", lr_end=0.0, beta2=0.99)
RECIPES = {
    "paper": DistillConfig(),
    # A student of any number of steps. Two of its steps cost a tenth of the teacher's twenty and end nearer to the data: they
    # are what a student of one step learns.
    "best": DistillConfig(
        stages=(2, 1),
        steps=(1000,),
        method="pairs",
        pairs=PairsConfig(count=48000, by="consistency"),
        inverse=InverseConfig(steps=60, beta=0.96, lr=1e-4, pairs=1.0),
        optim=replace(_FAST, batch_size=128),
    ),
    # The teacher's own ends from pure noise, then inverse distillation that keeps to them.
    "pairs": DistillConfig(
        stages=(20, 4, 2, 1),
        steps=(150, 250, 1000),
        method="pairs",
        pairs=PairsConfig(count=24000),
        inverse=InverseConfig(steps=220, beta=0.96, lr=2e-4, pairs=2.0, adversarial=0.02),
        optim=replace(_FAST, batch_size=128),
    ),
    # For one or two processor cores: no student as slow as its teacher, and Muon, which needs fewer steps.
    "short": DistillConfig(
        stages=(40, 4, 2, 1),
        steps=(300, 500, 1200),
        optim=_FAST,
    ),
    # The first part of "best" alone.
    "consistency": DistillConfig(method="consistency", optim=replace(_FAST, batch_size=128)),
    # Goes on with that student, in all its steps: as diverse as its teacher, and sharper in two steps.
    "inverse": DistillConfig(
        stages=(4,),
        pairs=PairsConfig(teacher_steps=20),
        inverse=InverseConfig(
            steps=200, num_steps=4, beta=0.96, fake_updates=2, lr=4e-4, fake_lr=5e-4, pairs=1.0, adversarial=0.05
        ),
        optim=_FAST,
    ),
    # Goes on with that one: two of its steps, learnt as one.
    "two-to-one": DistillConfig(
        stages=(2, 1),
        steps=(4500,),
        method="pairs",
        pairs=PairsConfig(count=48000, by="start"),
        optim=_FAST,
    ),
    # Below: for images of CIFAR's size, as published, days on a GPU.
    #
    # The independent reproduction of the paper (github.com/DanielZastrau/NeuralNetworks, commit f6b2fb0, 2026Han.py) leaps from
    # 100 steps to the student's in one stage: 20 times fewer cost it one point of FID (5.1 to 6.17), 10 times fewer half a one.
    # Its are the rates, warm-up, average, Euler teacher, even grid and 100 000 steps a stage. Ours: 4 steps where its least
    # are 5, so that halving goes on; and the stages to 2 and 1, which it does not have: on the digits one leap from 100 to 1 is
    # far worse than a chain. The warm-up begins at 0, where its begins at a fifth of the rate.
    "one-shot": DistillConfig(
        stages=(100, 4, 2, 1),
        steps=(100_000, 100_000, 100_000),
        integrator="euler",
        rho=1.0,
        optim=replace(_PUBLISHED, batch_size=128, lr=1e-4, warmup=5000, ema=0.9999),
    ),
    # RealUID's class-conditional CIFAR-10 (github.com/David-cripto/RealUID, run.sh and train_distil.py): 800 000 updates, of
    # which every sixth is the generator's, which starts as the teacher. Without classes it takes alpha .92, beta .94. Its
    # advice is beta/alpha .98 or 1.02. It keeps three averages (.999, .9996, .9999) and takes the best: here the middle one is
    # the student, and the others are kept for evaluate --ema all --keep-best. Differences: its fake model begins at random,
    # ours as the teacher; each of its networks warms up for 500 updates of its own, ours for 500 of the generator's; its noise
    # is Gaussian, ours that of the teacher.
    "realuid": DistillConfig(stages=(1,), inverse=_REALUID, optim=_REALUID_OPTIM),
    # Its second phase, which starts from the average of the first (--start) with a fake model that is the teacher anew. Without
    # classes alpha .92, beta .86; the advice is .94 or 1.06 here. It ends when its FID no longer falls: steps is the most.
    "realuid-second": DistillConfig(
        stages=(1,),
        inverse=replace(_REALUID, alpha=0.94, beta=1.0, lr=1e-5, fake_lr=1e-5, warmup=1, start="student"),
        optim=_REALUID_OPTIM,
    ),
}
SECOND_PHASES = {"realuid-second": "realuid"}
"""Recipes that go on with the student of another one."""
