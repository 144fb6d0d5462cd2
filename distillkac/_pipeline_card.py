"""The README.md of a saved pipeline: what it is, what to import, how to sample."""

import json
import warnings
from pathlib import Path
from typing import Any

from distillkac import __version__
from distillkac.base import files
from distillkac.runs.process_config import law

MARK = "<!-- written by distillkac; remove this line, and the text stays as you change it -->"
OF_DIFFUSERS = "This model card has been automatically generated"
FILE = "README.md"


def write(pipeline: Any, folder: Path, name: str | None = None) -> None:
    """Writes FOLDER/README.md, of a pipeline that is loaded as `name`. One that somebody wrote is kept, with a warning."""
    path = folder / FILE
    before = path.read_text(errors="replace", encoding="utf-8") if path.is_file() else ""
    if before.strip() and MARK not in before and OF_DIFFUSERS not in before:
        if "distillkac.pipeline" not in before:
            warnings.warn(
                f"{path} is kept as it is; it does not say that the pipeline is loaded by distillkac.pipeline.KacPipeline",
                stacklevel=3,
            )
        return
    files.write_atomic(path, text(pipeline, name or folder.resolve().name).encode())


def text(pipeline: Any, name: str) -> str:
    """The card, with the lines of metadata that the Hub reads."""
    names, shape = list(pipeline.unet.config.class_names), tuple(pipeline.unet.config.shape)
    kind = "images" if pipeline.vae is None else "latents, which the autoencoder beside it decodes"
    listed = ", ".join(f"`{name}`" for name in names[:20]) + (", ..." if len(names) > 20 else "")
    steps = pipeline.config.num_inference_steps
    return f"""---
library_name: diffusers
tags:
- distillkac
- class-conditional-image-generation
license: unknown
---
{MARK}

# A finite-speed (Kac) image generator

Made with the Python package `distillkac` {__version__}, which is needed to load it: diffusers alone does not know its
classes.

```python
import torch
from distillkac.pipeline import KacPipeline

pipeline = KacPipeline.from_pretrained("{name}")  # this folder, or its name on the Hub
images = pipeline(class_labels=[{json.dumps(names[0])}], generator=torch.Generator().manual_seed(0)).images
images[0].save("image.png")
```

- Process: {law(pipeline.scheduler.config)}; {kind} of {" x ".join(map(str, shape))} (channels, height, width).
- Steps: {steps}. {_abilities(pipeline.config.trained)}
- Classes ({len(names)}): {listed}.
- Samples are in [-1, 1] with `output_type="pt"`, in [0, 1] with "np".

## License

The license of these weights is not known: whoever trained them on data of their own states it here.
"""


def _abilities(trained: dict[str, Any] | None) -> str:
    if trained is None:
        return "What guidance it takes is not known."
    if trained["num_steps"] is None:
        guided = "`guidance_scale` (1 + w) above 1 guides it" if trained["label_drop"] > 0 else "it cannot be guided"
        return f"It is a teacher, which takes any `num_inference_steps`; {guided}."
    if trained["w_max"] is not None:
        guided = f"it takes `guidance_scale` from 1 to {1 + trained['w_max']:g}"
    else:
        guided = f"guidance of `guidance_scale` = {1 + trained['w']:g} is folded in and cannot be changed"
    if trained.get("objective", "flow-matching") != "flow-matching":
        guided = "`guidance_scale` (1 + w) above 1 guides it" if trained["label_drop"] > 0 else "it cannot be guided"
        return (
            f"It was trained for {trained['objective']}, without a teacher, and takes any `num_inference_steps`, best a few; "
            f"{guided}."
        )
    some = "exactly" if trained.get("restart") is None else "any number of steps, best at most"
    return f"It is a distilled student of {some} {trained['num_steps']} steps; {guided}."
