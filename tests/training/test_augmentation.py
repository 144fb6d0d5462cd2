"""Augmentation: what is done to images is what the labels say, and nothing of it is in samples."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from distillkac import distill, export, sample, train
from distillkac.flow.network_config import AUGMENT_LABELS, NetworkConfig
from distillkac.pipeline import KacPipeline
from distillkac.runs import packed
from distillkac.runs.augmentation_config import AugmentationConfig
from distillkac.runs.config import RunConfig, load_config
from distillkac.runs.run import build_network, open_run
from distillkac.runs.sampling import SamplerConfig, class_labels, generate
from distillkac.training import train as train_in_python
from distillkac.training.augmentation import Augmentation, _resampled, _turn
from distillkac.training.batches import Batch
from distillkac.training.objectives import objective_for
from tests.closeness import assert_other, assert_same
from tests.toys import TINY_OPTIONS, ToyData, optim, refusal, run_config, trainer
from tests.training.resume_options import weights

OFF = AugmentationConfig(mirror=0, upside_down=0, scale=0, rotate=0, stretch=0, translate=0)
AUGMENTED = ["--augment", "0.5", *TINY_OPTIONS, "--optim.batch-size", "8", "--preview", "0"]


def smooth(rows: int, height: int, width: int) -> torch.Tensor:
    """Images with few waves, which cubic interpolation finds again."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    phases = torch.linspace(0, 3, rows).view(-1, 1, 1)
    return (0.6 * torch.sin(2 * x + phases) + 0.3 * torch.cos(1.5 * y - phases) * x)[:, None]


def batch_of(x0: torch.Tensor) -> Batch:
    return Batch(x0, torch.zeros(len(x0), dtype=torch.int64), 2, 0, len(x0))


def augmented(x0, probability=1.0, **options):
    return Augmentation(probability, replace(OFF, **options), 3)(batch_of(x0))


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_mirrored_images_are_mirrored(size):
    x0 = torch.rand(64, 3, *size) * 2 - 1
    for name, axis, place in (("mirror", 3, 0), ("upside_down", 2, 1)):
        images, labels = augmented(x0, **{name: 1.0})
        torch.testing.assert_close(images, x0.flip(axis), rtol=0, atol=1e-5)
        assert torch.equal(labels, torch.eye(AUGMENT_LABELS)[place].expand(64, -1))


def test_a_quarter_turn_is_one():
    x0 = torch.rand(2, 1, 7, 7) * 2 - 1
    quarter = _turn(torch.full((2,), torch.pi / 2))
    turned = _resampled(x0, quarter, torch.zeros(2, 2))
    torch.testing.assert_close(turned, x0.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_a_move_is_as_far_as_its_label_says():
    x0 = smooth(4, 16, 32)
    moved = _resampled(x0, torch.eye(2).expand(4, 2, 2), torch.tensor([[2 / 32, -3 / 16]]).expand(4, 2))
    torch.testing.assert_close(moved[:, :, :-3, 2:], x0[:, :, 3:, :-2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"scale": 0.4}, {"rotate": 180.0}, {"rotate": 45.0}, {"stretch": 0.4}, {"translate": 0.1}]
)
def test_labels_say_what_was_done(options):
    """Two images that are the coordinates of their pixels: what stands in a pixel is where it came from."""
    side, far = 96, 8
    y, x = torch.meshgrid(torch.arange(side) - (side - 1) / 2, torch.arange(side) - (side - 1) / 2, indexing="ij")
    images, labels = augmented(torch.stack([x, y]).expand(64, 2, side, side) / side, **options)
    low, high = side // 2 - far, side // 2 - 1 + far
    right = images[:, :, low : high + 1, high].mean(2) - images[:, :, low : high + 1, low].mean(2)
    down = images[:, :, high, low : high + 1].mean(2) - images[:, :, low, low : high + 1].mean(2)
    found = torch.stack([right, down], 2) * side / (high - low)  # of the source, by each coordinate of the pixel
    strengths = replace(OFF, **options)
    labels[:, 2] *= strengths.scale
    labels[:, 5:7] *= strengths.stretch
    labels[:, 7:] *= strengths.translate
    labels[:, 3:5] *= strengths.rotate / 180 if strengths.rotate else 1
    size, cos, sin, along, across, right, below = labels[:, 2:].unbind(1)
    stretch = torch.stack([torch.stack([along, across], 1), torch.stack([across, -along], 1)], 1)
    turned = torch.stack([torch.stack([cos + 1, sin], 1), torch.stack([-sin, cos + 1], 1)], 1)
    wanted = torch.linalg.matrix_exp(-torch.log(torch.tensor(2.0)) * stretch) * (2**-size).view(-1, 1, 1)
    torch.testing.assert_close(found, turned @ wanted, rtol=0, atol=0.01)
    moved = torch.stack([right, below], 1) * side
    middle = images[:, :, low : high + 1, low : high + 1].mean((2, 3)) * side
    torch.testing.assert_close(middle, -(found @ moved[..., None]).squeeze(2), rtol=0, atol=0.1)
    assert labels.std(0).max() > 0.05


def test_each_change_is_made_with_its_probability_and_others_change_no_bit():
    x0 = torch.rand(4000, 1, 4, 4) * 2 - 1
    images, labels = Augmentation(0.3, AugmentationConfig(), 3)(batch_of(x0))
    groups = {
        "mirror": [0],
        "upside down": [1],
        "scale": [2],
        "rotate": [4],
        "stretch": [5, 6],
        "move": [7],
        "down": [8],
    }
    for name, places in groups.items():
        share, wanted = (labels[:, places] != 0).any(1).float().mean(), 0.15 if places[0] < 2 else 0.3
        assert abs(share - wanted) < 4 * (wanted * (1 - wanted) / 4000) ** 0.5, name
    untouched = (labels == 0).all(1)
    assert untouched.float().mean() == pytest.approx(0.85**2 * 0.7**4, abs=0.03)
    assert torch.equal(images[untouched], x0[untouched])
    assert (images[~untouched] != x0[~untouched]).flatten(1).any(1).float().mean() > 0.99
    assert images.abs().max() <= 1


def test_parts_of_a_batch_are_changed_as_in_the_whole():
    x0 = torch.rand(20, 1, 4, 4)
    batch, change = batch_of(x0), Augmentation(0.5, AugmentationConfig(), 3)
    part = change(replace(batch, x0=x0[5:9], y=batch.y[5:9], row=5))
    images, labels = change(batch)
    assert_same(part[0], images[5:9])
    assert torch.equal(part[1], labels[5:9])


def test_the_network_is_told_and_hears_it(tmp_path):
    config = run_config(augment=0.5, steps=60, optim=optim(lr=2e-2))
    network = build_network(config)
    assert (network.augment.weight == 0).all()
    objective, told = objective_for(config, network), []
    x, y = ToyData().__getitems__(list(range(12)))
    batch = Batch(x, y, 0, 0, 12)

    class Listener(nn.Module):
        def forward(self, x_t, t, y, augment):
            told.append(augment)
            return torch.zeros_like(x_t)

    objective(Listener(), batch)
    assert torch.equal(told[0], objective.augment(batch)[1])
    fit = trainer(tmp_path, config, objective).fit()
    learned = fit.network
    assert learned.augment.weight.abs().max() > 1e-3
    t = torch.full((12,), 0.4)
    plain = build_network(run_config())
    plain.load_state_dict({k: v for k, v in learned.state_dict().items() if k != "augment.weight"})
    with torch.no_grad():
        assert_same(learned(x, t, y), plain.eval()(x, t, y))  # nothing said is nothing done
        assert_other(learned(x, t, y, augment=20 * told[0]), learned(x, t, y))  # of images that nearly are alike turned


def test_weights_of_a_network_are_those_that_it_has_without():
    plain, other = build_network(run_config()), build_network(run_config(augment=0.1))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in plain.state_dict().items())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augmented") / "run"
    assert train.main(["--run", str(folder), "--steps", "4", *AUGMENTED]) == 0
    return folder


def test_a_run_is_resumed_to_the_same_weights(run, tmp_path, capsys):
    again = tmp_path / "again"
    assert train.main(["--run", str(again), "--steps", "4", "--optim.save-every", "2", *AUGMENTED]) == 0
    assert weights(again) == weights(run)
    said = refusal(train, ["--run", str(run), "--resume", "--steps", "5", "--augment", "0.2"], capsys)
    assert "was trained with --augment 0.5, which --resume cannot change to --augment 0.2" in said


def test_it_is_sampled_distilled_exported_packed_and_saved_for_diffusers(run, tmp_path):
    opened = open_run(run, "cpu")
    labels = class_labels(opened.config, 2)
    images = generate(opened, labels, SamplerConfig(2)).images
    chain = ["--stages", "4,2,1", "--steps", "2", "2", "--inverse.steps", "2", "--optim.batch-size", "8"]
    assert distill.main([str(run), *chain, "--out", str(tmp_path / "students")]) == 0
    student = load_config(tmp_path / "students" / "student-1-inverse")
    assert student.network.augment_embedding
    assert sample.main([str(tmp_path / "students" / "student-2"), "--num", "1", "--out", str(tmp_path / "a.png")]) == 0
    assert export.main([str(run), "--steps", "2", "--out", str(tmp_path / "run.pt2")]) == 0
    KacPipeline.from_pretrained(run).save_pretrained(tmp_path / "pipe")
    again = KacPipeline.from_pretrained(tmp_path / "pipe").unet.velocity
    assert torch.equal(again.augment.weight, opened.network.augment.weight)
    small = packed.unpack(*packed.pack(opened.network.state_dict()))
    opened.network.load_state_dict(small)
    assert (generate(opened, labels, SamplerConfig(2)).images - images).abs().max() < 0.5


def test_a_run_can_begin_with_its_weights(run, tmp_path):
    options = ["--run", str(tmp_path / "plain"), "--init", str(run), "--steps", "1", "--preview", "0"]
    assert train.main(options) == 0
    assert not load_config(tmp_path / "plain").network.augment_embedding


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--augment", "1.5"], "augment must lie in [0, 1], got 1.5"),
        (["--augmentation.scale", "0.1"], "augmentation.* say what augment does, which is off: give augment"),
        (["--network.augment-embedding"], "network.augment_embedding is set by augment, which is off"),
        (
            ["--augment", "0.1", "--objective", "consistency"],
            "augment is of the objective flow-matching, got objective",
        ),
        (["--augment", "0.1", "--network.backbone", "dit"], "and the dit takes none: omit it"),
        (["--augment", "0.1", "--preset", "lsun256"], "and those of preset lsun256 are latents: omit it"),
        (["--augment", "0.1", "--preset", "lsun256", "--dry-run"], "and those of preset lsun256 are latents: omit it"),
        (["--augment", "0.1", "--augmentation.rotate", "200"], "augmentation.rotate must lie in [0, 180], got 200"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, capsys, options, said):
    assert said in refusal(train, ["--run", str(tmp_path), *options], capsys)


def test_what_a_transformer_does_not_have_is_said(tmp_path, capsys):
    options = [
        "--run",
        str(tmp_path),
        "--network.backbone",
        "dit",
        "--network.channels",
        "16",
        "--network.head-dim",
        "8",
    ]
    with pytest.warns(UserWarning, match=r"everywhere: network.attention, network.scale_shift change nothing of it"):
        assert train.main([*options, "--network.attention", "0", "--network.scale-shift", "--dry-run"]) == 0
    config = run_config(network=NetworkConfig("dit", channels=(16,), head_dim=8, scale_shift=True), steps=1, preview=0)
    with pytest.warns(UserWarning, match=r"everywhere: network.scale_shift change nothing of it"):
        train_in_python(tmp_path / "run", ToyData(), config=config)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*change nothing of it")
        assert train.main([*options, "--dry-run", "--optim.precision", "bf16"]) == 0
    assert "in float32, as the memory: --optim.precision bf16 changes both" in capsys.readouterr().out


def test_own_networks_are_refused_by_name(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def forward(self, x, t, y):
            return self.a * x

    from distillkac.training import train as train_own

    with pytest.raises(ValueError, match=r"this network, which is not built from options, takes none: omit it"):
        train_own(tmp_path, ToyData(), Own(), RunConfig(augment=0.1, label_drop=0.0))
    with pytest.raises(ValueError, match=r"augment has nothing to do: every augmentation\.\* is 0"):
        RunConfig(augment=0.1, augmentation=OFF)


def test_a_network_without_the_embedding_takes_no_labels():
    network, x = build_network(run_config()), torch.zeros(2, *run_config().shape)
    with pytest.raises(ValueError, match="the network takes no augment"):
        network(x, torch.ones(2), torch.zeros(2, dtype=torch.int64), augment=torch.zeros(2, AUGMENT_LABELS))
