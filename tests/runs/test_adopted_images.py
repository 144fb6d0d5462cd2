"""What a model of diffusers says of its images, and what it does not: the numbers of classes, the size of a sample."""

import diffusers
import pytest

from distillkac.base import files
from distillkac.runs import adopt
from distillkac.runs.back import save_for_diffusers
from tests.adopted import saved, saved_dit
from tests.runs.test_adoption import change, images


def test_classes_that_the_images_number_otherwise_are_refused(tmp_path):
    model, names = saved(tmp_path / "model", num_class_embeds=3), tuple(images(3).class_names)
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    said = {str(k): name for k, name in enumerate(reversed(names))}
    files.write_json(model / "model_index.json", index | {"id2label": said})
    with pytest.raises(
        ValueError, match=rf"has class '{names[0]}' as number 2 \(id2label\), and these images as number 0"
    ):
        adopt(model, tmp_path / "run", images(3))
    change(model / "model_index.json", id2label={str(k): name for k, name in enumerate(names)})
    assert adopt(model, tmp_path / "run", images(3)).config.class_names == names


def test_a_model_without_a_size_goes_back_with_that_of_its_images(tmp_path):
    model = saved(tmp_path / "model")
    change(model / "config.json", sample_size=None)
    run = adopt(model, tmp_path / "run", images(1))
    save_for_diffusers(run, tmp_path / "back")
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path / "back")
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(batch_size=2, num_inference_steps=1, output_type="np").images
    assert drawn.shape[:3] == (2, *run.config.shape[1:])


def test_a_transformer_cannot_be_told_to_have_no_class_for_none(tmp_path):
    with pytest.raises(ValueError, match="is a DiT, which always has a class for none: omit null_class"):
        adopt(saved_dit(tmp_path / "dit"), tmp_path / "run", null_class=False)
