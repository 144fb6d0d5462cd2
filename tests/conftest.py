"""Shared by all tests: what a test changed is put back (SIMD level, threads, the world outside); forked commands; runs that
are only read, trained once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from distillkac._kernels import native
from tests.misaligned import pytest_addoption, pytest_configure, pytest_runtest_setup  # noqa: F401  --misalign
from tests.places import without_fashion

# A processor whose best instructions are those that ATEN_CPU_CAPABILITY names has no better ones for oneDNN either. Told only
# the first, torch 2.13 on one with AMX prepares bfloat16 attention for oneDNN by code that it then lacks, and says so.
ONEDNN_LEVELS = {"default": "SSE41", "avx2": "AVX2"}
if (level := ONEDNN_LEVELS.get(os.environ.get("ATEN_CPU_CAPABILITY", ""))) is not None:
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", level)

# What torch's matrix products, convolutions and reductions have a part in, beyond our own ops: run by `make test-cpus` at
# every level of them. Files about data, files and options do not change with a CPU and are left out.
TORCH_KERNELS = {
    "test_adopted",
    "test_adopted_ldm",
    "test_adopted_teachers",
    "test_adoption",
    "test_alignment",
    "test_any_steps",
    "test_augmentation",
    "test_average_velocity",
    "test_averages",
    "test_checkpointing",
    "test_classifier",
    "test_command_mistakes",
    "test_commands",
    "test_compare",
    "test_compiled",
    "test_conditioning",
    "test_consistency",
    "test_consistency_from_data",
    "test_continuity",
    "test_copies",
    "test_crashes",
    "test_default_dtypes",
    "test_demo",
    "test_demo_server",
    "test_determinism",
    "test_device",
    "test_diagnose",
    "test_diagnose_sections",
    "test_distillation",
    "test_distributed",
    "test_earlier_formats",
    "test_equal_files",
    "test_evaluate_options",
    "test_evaluators",
    "test_exact_flow",
    "test_exact_transport",
    "test_examples",
    "test_export",
    "test_failure",
    "test_fashion",
    "test_few_steps",
    "test_fidelity",
    "test_fidelity_command",
    "test_fresh_noise",
    "test_guidance",
    "test_heads",
    "test_inception",
    "test_init",
    "test_integrators",
    "test_inverse",
    "test_inverse_steps",
    "test_inverse_steps_chain",
    "test_kept_checkpoints",
    "test_latents",
    "test_library",
    "test_measuring",
    "test_measuring_processes",
    "test_methods",
    "test_metrics",
    "test_models",
    "test_moments",
    "test_muon",
    "test_muon_on_gpus",
    "test_muon_runs",
    "test_network_patch",
    "test_networks",
    "test_no_waits",
    "test_opened_runs",
    "test_orthogonal",
    "test_outputs",
    "test_own_networks",
    "test_own_runs",
    "test_own_students",
    "test_own_teachers",
    "test_pairs",
    "test_pairs_chain",
    "test_pairs_of_a_named_student",
    "test_pairs_of_a_student",
    "test_path_runs",
    "test_pipeline",
    "test_pipeline_checks",
    "test_pipeline_images",
    "test_pipeline_kinetic",
    "test_pipeline_loading",
    "test_pipeline_precision",
    "test_power_averages",
    "test_processes",
    "test_processes_table",
    "test_published_recipes",
    "test_recorded",
    "test_resume_meaning",
    "test_sample",
    "test_sample_files",
    "test_sample_kinetic",
    "test_schedule",
    "test_sharding",
    "test_shares",
    "test_shifted_grids",
    "test_ship",
    "test_stability",
    "test_stored_paths",
    "test_teachers_of_digits",
    "test_teachers_without_images",
    "test_times",
    "test_torchcfm_teacher",
    "test_trackers",
    "test_training",
    "test_training_determinism",
    "test_transformer",
    "test_unet_blocks",
    "test_updates",
}


# Files that take longest, begun first so that no worker is left with one of them at the end.
LONGEST = (
    "test_distributed",
    "test_training_determinism",
    "test_export",
    "test_commands",
    "test_sample",
    "test_evaluate_options",
    "test_evaluators",
    "test_compare",
    "test_crashes",
    "test_resume_meaning",
    "test_diagnose",
    "test_demo_server",
    "test_equal_files",
    "test_cuda_resources",
    "test_fidelity_command",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in TORCH_KERNELS:
            item.add_marker(pytest.mark.torch_kernels)
        if item.get_closest_marker("fashion") and (reason := without_fashion()):
            item.add_marker(pytest.mark.skip(reason=reason))
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture
def simd_level():
    """A function that forces a SIMD level for this test."""
    before = native.simd_level()
    yield native.set_simd_level
    native.set_simd_level(before)


@pytest.fixture
def threads():
    """A function that sets torch's number of threads for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def forked():
    """A function that sends a request to tests/forked_commands.py and returns the answer."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.forked_commands"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    ) as server:

        def ask(**request) -> dict:
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """A teacher of toy images after two steps, the only run beside it. It is only read: copy it to change it."""
    from distillkac.runs.config import save_config
    from tests.toys import run_config, trainer

    folder, config = tmp_path_factory.mktemp("toy") / "demo", run_config(steps=2)
    trainer(folder, config).fit()
    save_config(folder, config)
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A teacher of the digits that has learned a little, with a student of 2 steps. It is only read and measured."""
    from distillkac import distill, train
    from tests.toys import TINY_OPTIONS

    folder = tmp_path_factory.mktemp("digits") / "tiny"
    options = [*TINY_OPTIONS, "--preview", "0", "--optim.batch-size", "16"]
    assert train.main(["--run", str(folder), "--steps", "40", "--optim.lr", "0.01", *options]) == 0
    assert distill.main([str(folder), "--stages", "4,2", "--steps", "3", "--optim.batch-size", "16"]) == 0
    return folder


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Nothing is written to the user's cache, nothing asked of the network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))

    def refuse(*_):
        raise AssertionError("something local asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
