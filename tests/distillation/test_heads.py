"""Heads on the fake model's blocks: what they learn, what the generator learns from them, what they are refused for."""

import pytest
import torch
from torch.nn.functional import softplus

from distillkac import distill, train
from distillkac.distillation.features import Heads, channels_of
from distillkac.distillation.inverse import HEADS_WEIGHT, GeneratorAndFake, RealUID
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.processes import Telegraph
from distillkac.runs.config import load_config
from distillkac.runs.run import build_network
from distillkac.training.batches import Batch
from tests.distillation.batches import BATCH, Affine
from tests.toys import SHAPE, TINY, refusal, run_config
from tests.training.resume_options import TINY as TINY_OPTIONS
from tests.training.resume_options import weights

ROW = torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.int64)


def awake(seed, network=TINY):
    """A network that answers something: a new one answers 0."""
    made = build_network(run_config(seed=seed, network=network))
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=source)
    return made


def test_losses_with_heads_are_those_without_and_the_heads():
    teacher, process = awake(1).requires_grad_(False), Telegraph()
    pair = GeneratorAndFake(awake(2), teacher, 10.0, ROW)
    plain = RealUID(GuidedVelocity(teacher), process, 0.9, 0.95, 1, 6)
    both = RealUID(GuidedVelocity(teacher), process, 0.9, 0.95, 1, 6, adversarial=0.3)
    asked = []
    pair.heads.register_forward_hook(lambda module, inputs, logits: asked.append(logits))
    heads, pair.heads = pair.heads, None
    expected = [plain(pair, Batch(BATCH.x0, BATCH.y, step, 12, 24)) for step in range(2)]
    pair.heads = heads
    found = [both(pair, Batch(BATCH.x0, BATCH.y, step, 12, 24)) for step in range(2)]
    generated, real = asked[0].chunk(2)
    told = HEADS_WEIGHT * (softplus(generated).mean() + softplus(-real).mean())
    assert found[0].item() == pytest.approx((expected[0] + told).item(), rel=1e-4)
    assert found[1].item() == pytest.approx((expected[1] + 0.3 * softplus(-asked[1]).mean()).item(), rel=1e-4)
    found[0].backward()
    assert all(parameter.grad is not None for parameter in pair.heads.parameters())
    assert all(parameter.grad is None for parameter in pair.generator.parameters())
    pair.zero_grad()
    found[1].backward()
    assert all(parameter.grad is None for parameter in (*pair.heads.parameters(), *pair.fake.parameters()))
    gradients = [
        torch.autograd.grad(loss(pair, Batch(BATCH.x0, BATCH.y, 1, 12, 24)), list(pair.generator.parameters()))
        for loss in (both, plain)
    ]
    assert any(not torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 9, 5)], ids=["unet", "dit"])
def test_heads_learn_to_tell_answers_apart(shape):
    source = torch.Generator().manual_seed(3)
    answers = [torch.randn(shape, generator=source) for _ in range(2)]
    assert channels_of(answers) == [5, 5]
    torch.manual_seed(0)
    heads, real = Heads(channels_of(answers)), torch.tensor([1.0, 1, 1, -1, -1, -1])
    optimizer = torch.optim.Adam(heads.parameters(), 0.02)
    for _ in range(150):
        loss = softplus(-real[:, None] * heads(answers)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = heads(answers)
    assert logits.shape == (6, 2)
    assert (logits.sum(1).sign() == real).all()


def test_heads_are_the_same_in_every_process_and_leave_the_callers_draws_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two = (GeneratorAndFake(awake(2), awake(1), 10.0, ROW) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(one.heads.parameters(), two.heads.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.fake.training


def test_a_network_without_named_blocks_has_no_heads():
    with pytest.raises(ValueError, match=r"inverse\.adversarial needs the network's blocks, and Affine does not name"):
        GeneratorAndFake(Affine(), Affine(), 10.0, ROW)


INVERSE = ["--stages", "2,1", "--steps", "2", "--optim.batch-size", "16", "--inverse.steps", "2"]


@pytest.mark.one_alignment
def test_a_distillation_with_heads_resumes_exactly(tmp_path):
    run, whole, parts = tmp_path / "run", tmp_path / "whole", tmp_path / "parts"
    assert train.main(["--run", str(run), "--steps", "2", *TINY_OPTIONS]) == 0
    options = [str(run), *INVERSE, "--inverse.adversarial", "0.1", "--optim.lr-end", "1"]
    assert distill.main([*options, "--out", str(whole)]) == 0
    assert "--inverse.adversarial 0.1" in load_config(whole / "student-1-inverse").student.options
    first = [word if word != "2" or options[i - 1] != "--inverse.steps" else "1" for i, word in enumerate(options)]
    assert distill.main([*first, "--out", str(parts)]) == 0
    assert weights(parts / "student-1-inverse") != weights(whole / "student-1-inverse")
    assert distill.main([*options, "--out", str(parts), "--resume"]) == 0
    assert weights(parts / "student-1-inverse") == weights(whole / "student-1-inverse")


def test_heads_without_real_images_are_refused(tmp_path, capsys):
    options = ["--inverse.adversarial", "0.1", "--inverse.alpha", "1", "--inverse.beta", "1"]
    assert "adversarial needs real images" in refusal(distill, [str(tmp_path), *options], capsys)
    assert "adversarial must be at least 0" in refusal(distill, [str(tmp_path), "--inverse.adversarial", "-1"], capsys)
