"""A training that begins with the weights of another run or model: what is taken, what is left fresh, what is said of it."""

import dataclasses
import shutil

import pytest
import torch

from distillkac import train as command
from distillkac.flow.networks import NetworkConfig
from distillkac.runs import adopt, checkpoints, load_config
from distillkac.runs.run import build_network
from distillkac.runs.start import begin_from, started
from distillkac.training import train
from tests.adopted import saved
from tests.toys import TINY, ToyData, run_config


def differing(network, source) -> set[str]:
    return {
        name
        for name, value in network.state_dict().items()
        if name not in source or not torch.equal(value, source[name])
    }


def test_all_of_a_run_of_the_same_kind(toy_run):
    config = run_config(seed=7)
    network, (weights, _) = build_network(config), checkpoints.load_weights(toy_run)
    start = begin_from(network, config, toy_run)
    assert not differing(network, weights)
    assert (start.taken, start.fresh, start.unused) == (1, (), ())
    assert start.told("it") == "begins with the weights of it (100% of its own)"


def test_one_of_several_processes_says_so(toy_run, capsys, monkeypatch):
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        config = run_config(seed=7)
        assert started(build_network(config), config, toy_run, None).began_with
        assert ("begins with" in capsys.readouterr().out) == (rank == "0")


def test_other_classes_and_another_size(toy_run):
    config = run_config(seed=7, class_names=("bright", "red", "green"), shape=(1, 6, 8))
    network, (weights, _) = build_network(config), checkpoints.load_weights(toy_run)
    before = network.state_dict()["classes.weight"].clone()
    start = begin_from(network, config, toy_run)
    rows = network.state_dict()["classes.weight"]
    assert differing(network, weights) == {"classes.weight"}
    assert torch.equal(rows[[0, 3]], weights["classes.weight"][[1, 2]])  # bright, and no class
    assert torch.equal(rows[1:3], before[1:3])
    assert start.fresh == ("classes.weight of 2 of 3 classes",)
    assert "left fresh: classes.weight of 2 of 3 classes" in start.told("it")
    assert 0.9 < start.taken < 1


def test_what_does_not_fit_is_named(toy_run):
    config = run_config(network=dataclasses.replace(TINY, middle_attention=True))
    start = begin_from(build_network(config), config, toy_run)
    assert start.fresh
    assert all(name.startswith("unet.mid_block.attentions.0.") for name in start.fresh)
    config = run_config(network=dataclasses.replace(TINY, channels=(16,)))
    network = build_network(config)
    with pytest.raises(
        ValueError, match=r"is another network: unet.conv_in.weight \(16, 1, 3, 3\), \(8, 1, 3, 3\) there"
    ):
        begin_from(network, config, toy_run)


def test_a_model_of_diffusers(tmp_path):
    from tests.adopted import UNET, unet

    settings = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "norm_num_groups": 2}
    saved(tmp_path / "model", num_class_embeds=3, **settings)
    channels = UNET["block_out_channels"]
    config = run_config(network=NetworkConfig(channels=channels, middle_attention=False), shape=(1, 8, 8))
    network, theirs = build_network(config), unet(num_class_embeds=3, **settings).state_dict()
    start = begin_from(network, config, tmp_path / "model")
    mine = network.state_dict()
    for name, value in theirs.items():
        if not name.startswith("class_embedding"):
            assert torch.equal(mine[f"unet.{name}"], value)
    assert start.fresh == ("classes.weight of 2 of 2 classes",)
    # As a run it knows its classes by name: 0 and 1, and the last, which means none.
    adopted = adopt(tmp_path / "model", tmp_path / "adopted", null_class=True).folder
    named = run_config(network=config.network, shape=(1, 8, 8), class_names=("0", "other"))
    network = build_network(named)
    start = begin_from(network, named, adopted)
    for name, value in theirs.items():
        if not name.startswith("class_embedding"):
            assert torch.equal(network.state_dict()[f"unet.{name}"], value)
    rows = network.state_dict()["classes.weight"]
    assert torch.equal(rows[[0, 2]], theirs["class_embedding.weight"][[0, 2]])
    assert start.fresh == ("classes.weight of 1 of 2 classes",)


def test_what_is_left_fresh_is_no_part_of_what_a_run_began_with(toy_run):
    """An own network may be made without a seed, and is another each time."""
    found = set()
    for seed in (1, 2):
        config = run_config(network=dataclasses.replace(TINY, middle_attention=True), seed=seed)
        found.add(begin_from(build_network(config), config, toy_run).digest)
    assert len(found) == 1
    whole, classes = run_config(), run_config(class_names=("bright", "red"))
    assert begin_from(build_network(whole), whole, toy_run).digest in found  # all that there is was taken by each
    assert begin_from(build_network(classes), classes, toy_run).digest not in found


def test_the_command(toy_run, tmp_path, capsys):
    options = ["--run", str(tmp_path / "run"), "--steps", "1", "--preview", "0", "--optim.batch-size", "8"]
    begin = ["--init", str(toy_run), "--process", "gaussian"]
    assert command.main([*options, *begin]) == 0
    assert f"begins with the weights of {toy_run}" in capsys.readouterr().out
    config = load_config(tmp_path / "run")
    assert config.network == load_config(toy_run).network
    assert config.began_with is not None
    assert command.main([*options, *begin, "--resume"]) == 0
    assert command.main([*options, "--resume"]) == 0
    assert load_config(tmp_path / "run").began_with == config.began_with
    capsys.readouterr()
    back = ["--run", str(tmp_path / "back"), *options[2:], "--init", str(tmp_path / "run"), "--process", "telegraph"]
    assert command.main(back) == 0
    assert "(100% of its own)\n" in capsys.readouterr().out
    assert load_config(tmp_path / "back").noise.process == "telegraph"
    assert command.main([*options, "--resume", "--init", str(saved(tmp_path / "model"))]) == 1
    assert "is another network" in capsys.readouterr().err
    assert command.main([*options[:1], str(tmp_path / "other"), *options[2:], "--init", str(tmp_path / "gone")]) == 1
    assert "is not there: name a folder that save_pretrained wrote" in capsys.readouterr().err
    similar = ["--run", str(tmp_path / "other"), "--dry-run", "--init", str(tmp_path / "runs")]
    assert command.main(similar) == 1
    assert f"did you mean the run {tmp_path / 'run'}?" in capsys.readouterr().err


@pytest.mark.one_alignment
def test_a_run_that_ended_before_its_first_checkpoint_is_told_again(toy_run, tmp_path, capsys):
    """It would begin with random weights, and its config say otherwise."""
    run = tmp_path / "run"
    options = ["--run", str(run), "--steps", "2", "--preview", "0", "--optim.batch-size", "8", "--process", "gaussian"]
    assert command.main([*options, "--init", str(toy_run)]) == 0
    made, _ = checkpoints.load_weights(run)
    for path in run.iterdir():
        if path.name != checkpoints.CONFIG:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert command.main([*options, "--resume"]) == 1
    assert (
        "began with the weights of another run or model and has no checkpoint yet: give --init"
        in capsys.readouterr().err
    )
    assert command.main([*options, "--resume", "--init", str(toy_run)]) == 0
    assert all(torch.equal(value, made[name]) for name, value in checkpoints.load_weights(run)[0].items())


def test_what_began_a_run_is_known_when_its_config_is_given_again(toy_run, tmp_path):
    config = run_config(steps=1, preview=0, seed=3)
    train(tmp_path / "run", ToyData(), config=config, init=toy_run)
    began = load_config(tmp_path / "run").began_with
    assert began is not None
    train(tmp_path / "run", ToyData(), config=dataclasses.replace(config, steps=2), resume=True)
    assert load_config(tmp_path / "run").began_with == began


def test_what_a_run_takes_in_besides_is_left_to_the_objective(toy_run, tmp_path):
    """Of a run of average velocities the end of a step is taken where it is asked for, and of a student its weight w is not."""
    options = ["--steps", "1", "--preview", "0", "--optim.batch-size", "8"]
    begun = tmp_path / "begun"
    assert command.main(["--run", str(begun), "--init", str(toy_run), *options, "--objective", "average-velocity"]) == 0
    for objective in ("flow-matching", "average-velocity"):
        run = tmp_path / objective
        assert command.main(["--run", str(run), "--init", str(begun), *options, "--objective", objective]) == 0
        assert load_config(run).network.interval_embedding == (objective == "average-velocity")
