"""Networks do what they are told: time, class and guidance weight move what they answer, in every width there is."""

import json
from dataclasses import replace

import pytest
import torch
import tyro

from distillkac.base import files
from distillkac.base.random import generator
from distillkac.distillation.objectives import objective
from distillkac.distillation.stages import DistillConfig, stages_of, student_config
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.networks import NetworkConfig, VelocityNet, norm_groups
from distillkac.pipeline import KacNet, KacPipeline
from distillkac.runs import checkpoints
from distillkac.runs.config import load_config, save_config
from distillkac.runs.run import Run, open_run
from distillkac.runs.sampling import SamplerConfig, generate
from tests.toys import SHAPE, TINY, TINY_OPTIONS, optim, run_config, trainer

DIGITS = (1, 8, 8)
NULL = 2  # of two classes


def built(config, shape) -> VelocityNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return VelocityNet(config, shape, NULL)


def relative_changes(network) -> dict[str, float]:
    """By how much of itself the network's answer changes with each condition, all else the same.

    The weights are moved away from their start first: there every residual branch is zero and nothing has an effect.
    """
    source = generator(1, "weights")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
    x = torch.randn(4, *network.shape, generator=source)
    plain = {"x": x, "t": torch.full((4,), 0.3), "y": torch.zeros(4, dtype=torch.int64)}
    changed = {"time": {"t": plain["t"] + 0.5}, "class": {"y": plain["y"] + 1}, "no class": {"y": plain["y"] + NULL}}
    if network.guidance_embedding:
        plain["w"] = torch.ones(4)
        changed["w"] = {"w": plain["w"] + 2}
    with torch.no_grad():
        before = network.eval()(**plain)
        return {
            name: float((network(**plain | change) - before).norm() / before.norm()) for name, change in changed.items()
        }


NETWORKS = {
    "the toys'": (TINY, SHAPE),
    "the commands'": (NetworkConfig(channels=(8,), head_dim=8), DIGITS),
    "two narrow levels": (NetworkConfig(channels=(8, 8), head_dim=8, middle_attention=False), SHAPE),
    "8 and 16": (NetworkConfig(channels=(8, 16), head_dim=8), DIGITS),
    "16": (NetworkConfig(channels=(16,), head_dim=8), (3, 32, 32)),
    "24 and 32, all with attention": (NetworkConfig(channels=(24, 32), head_dim=8, attention=(0, 1)), DIGITS),
    "wide, then narrow": (NetworkConfig(channels=(64, 8), head_dim=8), DIGITS),
    "the default": (NetworkConfig(), DIGITS),
    "8 in patches": (replace(TINY, patch=2), SHAPE),
    "the default in patches": (NetworkConfig(patch=2), (1, 12, 20)),
    "16 in patches of 4, in colour": (NetworkConfig(channels=(16,), head_dim=8, patch=4), (3, 32, 32)),
}
TRANSFORMERS = {
    "transformer of 4": (NetworkConfig("dit", channels=(4,), head_dim=2), DIGITS),
    "transformer of 16": (NetworkConfig("dit", channels=(16,), head_dim=8, layers=2), DIGITS),
    "with norms and rotary positions": (
        NetworkConfig("dit", channels=(16,), head_dim=8, qk_norm=True, rotary=True),
        DIGITS,
    ),
    "transformer of images of two sides": (NetworkConfig("dit", channels=(16,), head_dim=8), (3, 6, 10)),
}


@pytest.mark.parametrize("guidance_embedding", [False, True])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_unet_listens(name, scale_shift, guidance_embedding):
    config, shape = NETWORKS[name]
    config = replace(config, scale_shift=scale_shift, guidance_embedding=guidance_embedding)
    changes = relative_changes(built(config, shape))
    assert len(changes) == 3 + guidance_embedding
    assert min(changes.values()) > 0.01, changes


# The embedding of w is as wide as the network: of width 4, with this test's weights, it says next to nothing.
@pytest.mark.parametrize(
    ("name", "guidance_embedding"),
    [*((name, False) for name in TRANSFORMERS), *((name, True) for name in TRANSFORMERS if name != "transformer of 4")],
)
def test_every_transformer_listens(name, guidance_embedding):
    config, shape = TRANSFORMERS[name]
    changes = relative_changes(built(replace(config, guidance_embedding=guidance_embedding), shape))
    assert len(changes) == 3 + guidance_embedding
    assert min(changes.values()) > 0.01, changes


def test_the_commands_tiny_network_is_the_one_that_was_tried():
    options = [word.replace("--network.", "--") for word in TINY_OPTIONS]
    assert tyro.cli(NetworkConfig, args=options) == NETWORKS["the commands'"][0]


@pytest.mark.parametrize(
    ("channels", "groups"),
    [((8,), 2), ((8, 64), 2), ((64, 8), 2), ((16,), 4), ((24, 32), 4), ((32,), 8), ((32, 64), 8), ((256, 512), 8)],
)
def test_groups_of_at_least_four_channels(channels, groups):
    assert norm_groups(channels) == groups
    network = built(NetworkConfig(channels=channels, head_dim=8), DIGITS)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {groups}
    assert all(norm.num_channels >= 4 * groups for norm in norms)


def written_by(folder, written: int | None, **changes):
    """A run folder's config.json of format `written`; None leaves the number out, as format 1 did."""
    save_config(folder, run_config(**changes))
    content = json.loads((folder / checkpoints.CONFIG).read_text())
    assert content.pop("format") == checkpoints.FORMAT
    files.write_json(folder / checkpoints.CONFIG, content | ({} if written is None else {"format": written}))


WIDE = [
    NetworkConfig(),
    NetworkConfig(channels=(32,)),
    NetworkConfig(channels=(256, 512)),
    NetworkConfig("dit", channels=(16,), head_dim=8),
]


@pytest.mark.parametrize("channels", [(8,), (8, 16), (24, 32), (64, 16)])
@pytest.mark.parametrize("written", [None, 1, 2])
def test_narrow_networks_of_earlier_versions_are_refused(tmp_path, written, channels):
    network = NetworkConfig(channels=channels, head_dim=8)
    written_by(tmp_path, written, network=network)
    with pytest.raises(ValueError, match=r"config\.json: network\.channels .* earlier version.* train it anew"):
        load_config(tmp_path)
    written_by(tmp_path, checkpoints.FORMAT, network=network)
    assert load_config(tmp_path).network == network


@pytest.mark.parametrize("network", WIDE)
@pytest.mark.parametrize("written", [None, 1, 2])
def test_other_networks_of_earlier_versions_still_load(tmp_path, written, network):
    """They are the same networks to this day: 8 groups where the least width is 32, and transformers have no groups."""
    written_by(tmp_path, written, network=network)
    assert load_config(tmp_path) == run_config(network=network)


def test_saved_pipelines_of_earlier_versions_likewise(tmp_path):
    def saved(config, **changes):
        KacNet(vars(config), SHAPE, ("dark", "bright")).save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        content = json.loads(path.read_text())
        assert content.pop("format") == checkpoints.FORMAT
        path.write_text(json.dumps(content | changes))
        return KacNet.from_pretrained(tmp_path)

    assert saved(NetworkConfig()).velocity.config == NetworkConfig()
    assert saved(TINY, format=checkpoints.FORMAT).velocity.config == TINY
    with pytest.raises(ValueError, match="earlier version"):
        saved(TINY)
    with pytest.raises(ValueError, match="has format 99, of a later version"):
        saved(NetworkConfig(), format=99)


# The whole way, from the data to images: what a short training learned follows what it is asked for. The same check must
# find networks that were made deaf on purpose, or it would say nothing.


def trained(folder, network: NetworkConfig) -> Run:
    """A teacher of the toys, whose images are all dark or all bright."""
    config = run_config(network=network, steps=100, label_drop=0.2, optim=optim(lr=2e-2, ema=0.9))
    trainer(folder, config).fit()
    save_config(folder, config)
    return open_run(folder, torch.device("cpu"))


def distilled(folder, teacher: Run) -> Run:
    """A student in one step that takes w as an input."""
    plan = DistillConfig(stages=(2, 1), steps=(60,), rho=1.5, w_max=4.0, optim=optim(lr=2e-2, ema=0.9))
    config, stage = student_config(teacher.config, stages_of(plan)[0], plan), stages_of(plan)[0]
    learns = objective(teacher.network, teacher.network, teacher.process, stage, plan)
    job = trainer(folder, config, learns)
    job.network.load_state_dict(teacher.network.state_dict(), strict=False)
    job.fit()
    save_config(folder, config)
    return open_run(folder, torch.device("cpu"))


def contrast(run: Run, steps: int, w: float) -> float:
    """How much brighter the images of "bright" are than those of "dark", in the mean."""
    labels = torch.arange(24) % 2
    images = generate(run, labels, SamplerConfig(steps=steps, w=w, rho=2.0 if steps > 1 else None)).images
    return float(images[labels == 1].mean() - images[labels == 0].mean())


def ignored(teacher: Run, student: Run | None = None) -> set[str]:
    """Which conditions have no effect on what is drawn."""
    found = set()
    if contrast(teacher, 4, 0.0) < 1.0:  # the data's is 1.6
        found.add("class")
    if contrast(teacher, 4, 2.0) < contrast(teacher, 8, 0.0) + 0.1:
        found.add("guidance")
    if student is not None and contrast(student, 1, 4.0) < contrast(student, 1, 0.0) + 0.1:
        found.add("student's w")
    x, y = torch.full((2, *SHAPE), 0.8), torch.arange(2)
    with torch.no_grad():
        early, late = (teacher.network(x, torch.full((2,), t), y) for t in (0.1, 0.9))
    if (early - late).norm() < 0.02 * late.norm():
        found.add("time")
    return found


def deaf(name: str, monkeypatch):
    """Plants the error: networks, or the guidance around them, that ignore one condition."""
    forward, guided = VelocityNet.forward, GuidedVelocity.__init__

    def network(self, x, t, y, w=None):
        if name == "class":
            y = torch.full_like(y, self.null_class)
        elif name == "time":
            t = torch.full_like(t, 0.5)
        elif name == "student's w" and w is not None:
            w = torch.zeros_like(w)
        return forward(self, x, t, y, w)

    def guidance(self, network, w=0.0, *rest, **named):
        guided(self, network, 0 * w if name == "guidance" else w, *rest, **named)

    monkeypatch.setattr(VelocityNet, "forward", network)
    monkeypatch.setattr(GuidedVelocity, "__init__", guidance)


# In patches it is wider: with 8 channels for 4 pixels it learns too little of time to tell.
LEARNERS = {
    "by pixels": TINY,
    "by patches": replace(TINY, channels=(16,), patch=2),
    "by a transformer": NetworkConfig("dit", channels=(16,), head_dim=8, qk_norm=True, rotary=True),
}


@pytest.fixture(scope="module", params=LEARNERS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("listening")
    teacher = trained(folder / "teacher", LEARNERS[request.param])
    return teacher, distilled(folder / "student", teacher)


def test_what_was_trained_follows_every_condition(pair):
    assert ignored(*pair) == set()


def test_a_pipeline_follows_class_and_guidance(pair):
    pipeline = KacPipeline.from_pretrained(pair[0].folder, num_inference_steps=8)
    pipeline.set_progress_bar_config(disable=True)

    def contrast(scale):
        source = torch.Generator().manual_seed(0)
        images = pipeline([0, 1] * 8, guidance_scale=scale, generator=source, output_type="pt").images
        return images[1::2].mean() - images[::2].mean()

    assert contrast(1.0) > 1.0
    assert contrast(3.0) > contrast(1.0) + 0.1


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("name", ["class", "time"])
def test_a_deaf_network_is_found(name, learner, tmp_path, monkeypatch):
    deaf(name, monkeypatch)
    found = ignored(trained(tmp_path, LEARNERS[learner]))
    assert name in found
    assert found <= {name, "guidance"}  # without a class there is nothing to guide to


@pytest.mark.parametrize("name", ["guidance", "student's w"])
def test_deaf_guidance_is_found(name, pair, monkeypatch, tmp_path):
    deaf(name, monkeypatch)
    teacher, _ = pair
    assert name in ignored(teacher, distilled(tmp_path, teacher))
