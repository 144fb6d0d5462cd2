"""No variable of accelerate, torch or a launcher changes what is trained: it agrees with the config, or is refused by name."""

import json
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands import launch
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from distillkac import train
from distillkac.base import launch_settings
from distillkac.runs import checkpoints, device
from distillkac.runs.optim_config import OptimConfig
from distillkac.training import fit
from tests.toys import refusal

SMALL = ["--network.channels", "16", "--network.head-dim", "8", "--optim.batch-size", "8", "--preview", "0"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """None of them is set, and accelerate forgets what it learned from them."""
    for name in (
        *launch_settings.OTHER_WAYS,
        *launch_settings.FLAGS,
        *launch_settings.FEWER_BITS,
        *launch_settings.NUMBERS,
    ):
        monkeypatch.delenv(name, raising=False)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--optim.accumulate is 1"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto", "--optim.accumulate is 1"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "give --optim.precision"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--optim.precision is no"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "networks are not compiled"),
        ("ACCELERATE_DYNAMO_BACKEND", "eager", "networks are not compiled"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed is not used here: --optim.shard"),
        ("ACCELERATE_USE_DEEPSPEED", "1", "DeepSpeed is not used here"),
        ("ACCELERATE_USE_MEGATRON_LM", "True", "Megatron-LM is not used here"),
        ("ACCELERATE_USE_MEGATRON_LM", "maybe", "neither yes nor no"),
        ("ACCELERATE_USE_FSDP", "true", "add --optim.shard"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "context and sequence parallelism"),
        ("ACCELERATE_USE_SAGEMAKER", "true", "SageMaker"),
        ("ACCELERATE_FP8_BACKEND", "TE", "8 bits"),
        ("ACCELERATE_TORCH_DEVICE", "meta", "unset it"),
        ("ACCELERATE_DEBUG_MODE", "", "neither yes nor no"),
        ("ACCELERATE_USE_CPU", "quite", "neither yes nor no"),
        ("LOCAL_RANK", "first", "no whole number"),
        ("OMPI_COMM_WORLD_SIZE", "2 or 3", "no whole number"),
    ],
)
def test_a_variable_that_asks_for_another_training_is_refused(tmp_path, monkeypatch, capsys, variable, value, advice):
    monkeypatch.setenv(variable, value)
    told = refusal(train, ["--run", str(tmp_path / "run"), "--steps", "2", *SMALL], capsys)
    assert f"{variable}={value}" in told
    assert advice in told
    assert not (tmp_path / "run" / checkpoints.STATE).exists()


def test_what_agrees_with_the_config_passes(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    launch_settings.check(OptimConfig(batch_size=8, accumulate=2, precision="bf16"), CPU)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # what `accelerate launch` sets unless it is told otherwise
    launch_settings.check(OptimConfig(batch_size=8, accumulate=2, precision="bf16"), CPU)


def test_the_accelerator_is_made_from_the_config_alone(monkeypatch):
    """Even of variables that are not looked for: those that a later version of accelerate may read."""
    monkeypatch.setattr(launch_settings, "check", lambda *_: None)
    for name, value in {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "perhaps",
        "ACCELERATE_DYNAMO_USE_DYNAMIC": "perhaps",
    }.items():
        monkeypatch.setenv(name, value)
    accelerator = fit.accelerator_for(OptimConfig(batch_size=8, accumulate=2))
    assert accelerator.gradient_accumulation_steps == 2
    assert accelerator.mixed_precision == "no"
    assert accelerator.state.dynamo_plugin.backend == "NO"


def test_every_update_is_made_as_often_as_the_log_says(tmp_path, monkeypatch):
    """The optimizer has counted as many steps as the run, with accumulation and a variable that agrees."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    options = ["--steps", "4", "--optim.accumulate", "2", "--optim.log-every", "1", *SMALL]
    assert train.main(["--run", str(tmp_path), *options]) == 0
    moments = checkpoints.load_state(tmp_path)["optimizer"]["state"]
    assert {int(values["step"]) for values in moments.values()} == {4}
    assert len((tmp_path / checkpoints.METRICS).read_text(encoding="utf-8").splitlines()) == 4


def launched(*options: str) -> dict[str, str]:
    """The environment that `accelerate launch OPTIONS` gives to its processes."""
    args, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args([*options, "script.py"]))
    if args.use_fsdp or args.multi_gpu or args.use_megatron_lm:
        return prepare_multi_gpu_env(args)
    return prepare_simple_launcher_cmd_env(args)[1]


@pytest.fixture
def user_file(tmp_path, monkeypatch):
    """A function that writes the file of `accelerate config`."""
    path = tmp_path / "default_config.yaml"
    monkeypatch.setattr(launch, "default_config_file", str(path))
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(path))

    def write(**settings):
        usual = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "num_processes": 1, "use_cpu": False}
        path.write_text(json.dumps(usual | settings), encoding="utf-8")  # JSON is YAML

    return write


@pytest.mark.parametrize("options", [(), ("--cpu",), ("--num_processes", "2", "--multi_gpu"), ("--debug",)])
def test_what_accelerate_launch_sets_by_itself_passes(monkeypatch, user_file, options):
    for name, value in launched("--mixed_precision", "no", *options).items():
        monkeypatch.setenv(name, value)
    launch_settings.check(OptimConfig(precision="bf16"), CPU)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mixed_precision": "bf16"}, "ACCELERATE_MIXED_PRECISION=bf16"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "ACCELERATE_DYNAMO_BACKEND=INDUCTOR"),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}, "ACCELERATE_USE_FSDP=true"),
        ({"distributed_type": "MEGATRON_LM"}, "ACCELERATE_USE_MEGATRON_LM=true"),
    ],
)
def test_what_the_file_of_accelerate_config_asks_for_is_refused(monkeypatch, user_file, settings, said):
    user_file(**settings)
    for name, value in launched().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said) as refused:
        launch_settings.check(OptimConfig(), CPU)
    assert "`accelerate config`" in str(refused.value)


def test_a_plain_file_of_accelerate_config_passes(monkeypatch, user_file):
    user_file(mixed_precision="no", use_cpu=True)
    for name, value in launched().items():
        monkeypatch.setenv(name, value)
    launch_settings.check(OptimConfig(), CPU)


def test_a_launcher_may_keep_a_command_off_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "gpu_problem", lambda _: None)
    assert device.device().type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert device.device().type == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    assert device.device().type == "cuda"


@pytest.mark.parametrize("problem", ["nvcc cannot build the CUDA kernels (nvcc fatal: old)", ""])
def test_a_gpu_without_kernels_is_said(monkeypatch, problem):
    """As after an installation with an nvcc that could not build them."""
    build = {"cuda": "", "cuda_problem": problem}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "native", SimpleNamespace(build_info=lambda: build))
    with pytest.warns(UserWarning, match=r"has no CUDA kernels \((nvcc cannot build|it was built without)"):
        assert device.device().type == "cpu"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1"),
        ("NVIDIA_TF32_OVERRIDE", "1"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16"),
        ("DNNL_DEFAULT_FPMATH_MODE", "any"),
    ],
)
def test_fewer_bits_below_torch_are_warned_of(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.warns(UserWarning, match=f"{variable}={value}.*fewer bits"):
        launch_settings.check(OptimConfig(), CPU)
    monkeypatch.setenv(variable, "0" if "TF32" in variable else "STRICT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        launch_settings.check(OptimConfig(), CPU)


# Variables of accelerate that a run may be started with: they change nothing, or nothing without one that is refused.
HARMLESS = (
    r"ACCELERATE_(ALLOW_CP_STANDALONE|BYPASS_DEVICE_MAP|CONFIG_DS_FIELDS|DEBUG_RDV_FILE|DEEPSPEED_\w+|DOWNCAST_BF16"
)
HARMLESS += (
    r"|DYNAMO_|DYNAMO_(MODE|USE_\w+)|ENABLE_RICH|FP8_|FP8_OPT_LEVEL|GRADIENT_CLIPPING|INIT_INCLUDE_BUFFERS|LOG_LEVEL"
)
HARMLESS += r"|SAGEMAKER_DISTRIBUTED_TYPE)"


def test_every_variable_that_accelerate_reads_has_been_judged():
    """Fails with a version of accelerate that reads a new one: decide what it means here."""
    root = Path(find_spec("accelerate").origin).parent
    sources = [path for path in root.rglob("*.py") if not {"commands", "test_utils"} & {*path.relative_to(root).parts}]
    read = {
        name
        for path in sources
        for name in re.findall(r"[\"'](ACCELERATE_[A-Z0-9_]+)[\"']", path.read_text(encoding="utf-8"))
    }
    ours = Path(launch_settings.__file__).read_text(encoding="utf-8")
    assert len(read) > 30
    assert [name for name in sorted(read) if name not in ours and not re.fullmatch(HARMLESS, name)] == []
