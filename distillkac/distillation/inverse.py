"""Inverse distillation with real data (RealUID): a generator of few steps for which the frozen teacher is the right flow.

If generated images had the data's law, a network fitted to *their* flow would be the teacher u* itself. So a second
network, the fake model u, is fitted to the generator's images, and the generator is moved to where teacher and fake
model agree. With the pair (x_t, target) of a generated image G(z) (process.pair), the generator minimises

    alpha || u*(x_t) - (beta/alpha) target ||^2 - alpha || u(x_t) - (beta/alpha) target ||^2,

and the fake model, with pairs (x_t', target') of real images,

    alpha || u(x_t) - (beta/alpha) target ||^2 + (1 - alpha) || u(x_t') - ((1 - beta)/(1 - alpha)) target' ||^2.

alpha = beta = 1 needs no data. The images are G(z) = z - g(z, t = 1, y): one Euler step of the network g, the student's. With
several steps they are its predictions of the data G(x, s) = x - s g(x, s, y) from all the states x that it meets in sampling
(generator_states.py), so that one network is brought to the data's law from pure noise and from there on.

With a weight `adversarial` small heads on the fake model's blocks learn besides to tell the noised real images from the noised
generated ones, and the generator to pass for real (as DMD2's, Yin et al. 2024):

    generator: + adversarial E softplus(-logits(x_t)),   heads: E softplus(logits(x_t)) + E softplus(-logits(x_t')).

With pairs (pairs.py) the generator minimises besides pairs times the loss of G(z) to x_end, the end of the teacher's own path
from the noise z: what keeps each image where the teacher has it, and with it diversity. A generator of several steps is held to
it from the later states of the path too, where they are stored.
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import softplus

from distillkac.base.random import derive_seed
from distillkac.base.tensors import column
from distillkac.distillation.features import BlockAnswers, Heads, channels_of
from distillkac.distillation.generator_states import GeneratorStates
from distillkac.distillation.pairs import DrawnPaths, EndLoss
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.processes import Process
from distillkac.training.batches import Batch
from distillkac.training.optimizer import outer_layers

HEADS_WEIGHT = 0.1
"""Of the heads' loss in the fake model's, whose blocks they read: more would bend them from the flow that they shall tell."""


class GeneratorAndFake(nn.Module):
    """The two networks under one optimizer, which skips the one that a step gives no gradient.

    `averaged` is what the moving average follows and what is exported: the generator. example: a row (x (1, C, H, W), y (1,))
    by which heads that tell real from generated are made, if there shall be any.
    """

    def __init__(
        self,
        generator: nn.Module,
        teacher: nn.Module,
        fake_lr_ratio: float,
        example: tuple[torch.Tensor, torch.Tensor] | None = None,
    ):
        super().__init__()
        self.generator = generator
        self.fake = copy.deepcopy(teacher).train().requires_grad_(True)
        self.fake_lr_ratio = fake_lr_ratio
        self.heads: Heads | None = None
        if example is not None:
            self._answers = BlockAnswers(self.fake, "inverse.adversarial")
            x, y = example
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the same heads in every process
                self.fake.eval()(x, torch.ones(1, dtype=torch.float32, device=x.device), y)
                self.fake.train()
                self.heads = Heads(channels_of(self._answers.seen)).to(x.device)

    @property
    def averaged(self) -> nn.Module:
        return self.generator

    def outer_layers(self) -> list[nn.Module]:
        outer = [layer for network in (self.generator, self.fake) for layer in outer_layers(network)]
        return outer if self.heads is None else [*outer, self.heads]

    def compiled_parts(self) -> list[nn.Module]:
        """The two networks, one by one (training/compiled.py)."""
        return [self.generator, self.fake]

    def param_groups(self) -> list[dict]:
        beside = list(self.fake.parameters()) + ([] if self.heads is None else list(self.heads.parameters()))
        return [
            {"params": list(self.generator.parameters()), "lr_scale": 1.0},
            {"params": beside, "lr_scale": self.fake_lr_ratio},
        ]

    def forward(self, role: Literal["generate", "fake"], *inputs: torch.Tensor):
        """At (x, t, y). generate: the data that the generator predicts. fake: (velocities, logits or None)."""
        x, t, y = inputs
        if role == "fake":
            u = self.fake(x, t, y)
            return u, None if self.heads is None else self.heads(self._answers.seen)
        return x - column(t, x) * self.generator(x, t, y)


@dataclass(frozen=True)
class TeachersEnds:
    """The second loss of a generator, to the ends of the teacher's paths. weight: of it."""

    paths: DrawnPaths
    loss: EndLoss
    weight: float


@dataclass(frozen=True)
class RealUID:
    """The objective for training.Trainer: `updates` optimizer updates a step, the fake model's first.

    teacher: u*, guided if it shall be. alpha, beta, fake_updates: see InverseConfig. ends: the loss to those of the
    teacher's paths, if it shall be added. adversarial: weight of the heads' loss, where the pair has heads. states: what the
    generator is given; by default pure noise.
    """

    teacher: GuidedVelocity
    process: Process
    alpha: float
    beta: float
    fake_updates: int
    seed: int
    ends: TeachersEnds | None = None
    adversarial: float = 0.0
    states: GeneratorStates | None = None

    @property
    def given(self) -> GeneratorStates:
        return GeneratorStates(self.process, self.seed) if self.states is None else self.states

    @property
    def updates(self) -> int:
        return self.fake_updates + 1

    def __call__(self, pair: nn.Module, batch: Batch) -> torch.Tensor:
        t = batch.stratified(self.seed, "time")
        x, s = self.given(partial(getattr(pair, "module", pair), "generate"), batch)
        if batch.step % self.updates < self.fake_updates:
            return self._fake_loss(pair, batch, x, s, t)
        return self._generator_loss(pair, batch, x, s, t)

    def _fake_loss(self, pair, batch, x, s, t):
        with torch.no_grad():
            generated = pair("generate", x, s, batch.y)
        x_t, target = self._noised(generated, t, batch)
        if self.alpha == 1:
            return (pair("fake", x_t, t, batch.y)[0] - target).square().mean()
        x_real, target_real = self.process.pair(batch.x0, t, derive_seed(self.seed, "real noise"), batch.first)
        both, logits = pair("fake", torch.cat([x_t, x_real]), torch.cat([t, t]), torch.cat([batch.y, batch.y]))
        u, u_real = both.float().chunk(2)
        generated_part = (u - self.beta / self.alpha * target).square().mean()
        real_part = (u_real - (1 - self.beta) / (1 - self.alpha) * target_real).square().mean()
        loss = self.alpha * generated_part + (1 - self.alpha) * real_part
        if logits is None:
            return loss
        of_generated, of_real = logits.float().chunk(2)
        return loss + HEADS_WEIGHT * (softplus(of_generated).mean() + softplus(-of_real).mean())

    def _generator_loss(self, pair, batch, x, s, t):
        generated, to_ends = self._generated(pair, batch, x, s)
        # The gradient with respect to the images alone, then from there into the generator: the fake model's weights
        # get none, whoever wraps them.
        images = generated.detach().requires_grad_(True)
        x_t, target = self._noised(images, t, batch)
        fake, logits = getattr(pair, "module", pair)("fake", x_t, t, batch.y)
        scaled = self.beta / self.alpha * target
        teacher = self.teacher(x_t, t, batch.y)
        loss = self.alpha * ((teacher - scaled).square() - (fake - scaled).square()).mean()
        if logits is not None:
            loss = loss + self.adversarial * softplus(-logits.float()).mean()
        (gradient,) = torch.autograd.grad(loss, images)
        through = (generated * gradient).sum()
        return through - through.detach() + loss.detach() + to_ends

    def _generated(self, pair, batch, x, s):
        """(images from the states x at s, weighted loss to the ends of as many paths of the teacher)."""
        if self.ends is None:
            return pair("generate", x, s, batch.y), 0.0
        states, y, _ = self.ends.paths(batch)
        index, step = self.given.on_paths(batch, len(states) - 1)
        begin, x_end = states[index, torch.arange(len(y), device=index.device)], states[-1]
        # At once: a network in several processes wants one forward for each backward.
        inputs = torch.cat([x, begin]), torch.cat([s, step]), torch.cat([batch.y, y])
        images, landed = pair("generate", *inputs).chunk(2)
        u = (begin - landed.float()) / column(step, begin)
        return images, self.ends.weight * self.ends.loss(begin, u, x_end, step, y)

    def _noised(self, images, t, batch):
        return self.process.pair(images, t, derive_seed(self.seed, "noise"), batch.first)
