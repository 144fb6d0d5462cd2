"""What a command imports before it does anything: no clock, but the names of modules that take long to import."""

import json
import os
import subprocess
import sys

import pytest

from tests.places import ROOT
from tests.project.test_rooms import COMMANDS

# Each takes a tenth of a second or more, most of them far more, and some bring others.
SLOW = ("accelerate", "diffusers", "matplotlib", "pandas", "scipy", "sklearn", "torch", "torch._dynamo", "transformers")
SLOW += ("PIL", "datasets", "gradio", "onnx", "pyarrow", "sympy", "torchmetrics", "webdataset")
# The options of inverse distillation lie beside what it learns, which needs torch.
WITH_TORCH = {"distill", "compare"}


def imported(program: str, *words: str) -> set[str]:
    """Those of SLOW that are imported at the end of a program, which may exit."""
    asked = f"""
import json, sys
sys.argv[1:], names = sys.argv[2:], json.loads(sys.argv[1])
try:
    {program}
finally:
    print(json.dumps([name for name in names if sys.modules.get(name)]), file=sys.stderr)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", asked, json.dumps(SLOW), *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def command(verb: str, *words: object) -> set[str]:
    return imported("from distillkac.__main__ import main; sys.exit(main(sys.argv[1:]))", verb, *map(str, words))


@pytest.mark.parametrize("verb", sorted(COMMANDS - {"__main__"}))
def test_help(verb):
    assert command(verb, "--help") <= ({"torch", "PIL"} if verb in WITH_TORCH else set())


def test_a_mistaken_option():
    with pytest.raises(AssertionError, match="did you mean --num"):
        command("sample", "run", "--nun", "3")
    with pytest.raises(AssertionError, match=r"\n *\[\]\n"):
        command("sample", "run", "--num", "many")
    with pytest.raises(AssertionError, match=r"did you mean --optim.lr\?[^[]*\n *\[\]\n"):
        command("train", "--lrr", "3")


def test_samples_of_a_run(toy_run, tmp_path):
    """A network of diffusers, and no other part of it; accelerate is imported by diffusers itself."""
    assert command("sample", toy_run, "--num", 2, "--out", tmp_path / "x.png") <= {
        "torch",
        "PIL",
        "diffusers",
        "accelerate",
    }
    assert (tmp_path / "x.png").exists()


def test_the_doctor():
    assert command("doctor") <= {"torch", "PIL", "diffusers", "accelerate", "matplotlib"}


def test_built_in_images():
    program = "from distillkac.data import DataConfig, load; load(DataConfig(builtin=sys.argv[1]), 'test')"
    assert imported(program, "digits") <= {"torch", "PIL"}
    assert imported(program, "patches") <= {"torch", "PIL"}


def test_all_of_diffusers_is_there_afterwards():
    """The networks are the same objects, and what was put off is done when it is asked for."""
    program = """
    from distillkac.base import backbones
    made = backbones.unet_class(), backbones.dit_class()
    assert "torch._dynamo" not in sys.modules and "diffusers.models.transformers.transformer_flux" not in sys.modules
    import diffusers, diffusers.models.transformers.transformer_2d, diffusers.models.unets, torch._dynamo
    assert made == (diffusers.UNet2DModel, diffusers.DiTTransformer2DModel)
    assert diffusers.models.transformers.FluxTransformer2DModel is diffusers.FluxTransformer2DModel
    assert diffusers.models.transformers.transformer_2d.Transformer2DModel is diffusers.Transformer2DModel
    assert diffusers.models.unets.UNet2DConditionModel is diffusers.UNet2DConditionModel
"""
    imported(program.strip())
