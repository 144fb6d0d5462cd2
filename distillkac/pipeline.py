"""A run as a pipeline of the diffusers library: load, sample, save, share.

pipeline = KacPipeline.from_pretrained("runs/demo", num_inference_steps=4)
images = pipeline(class_labels=[3, 1, 4], generator=torch.Generator().manual_seed(0)).images
pipeline.save_pretrained("kac-digits")            # and push_to_hub
"""

import copy
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, ModelMixin, VQModel
from diffusers.configuration_utils import ConfigMixin, register_to_config

from distillkac import _pipeline_card
from distillkac._pipeline_options import Options, asked_of, check_kind, check_scheduler, naming_the_place, number
from distillkac.base import memory, paths, progress
from distillkac.base.ranges import whole
from distillkac.data.vae import load_decoder
from distillkac.flow.adopted import AdoptedNetwork
from distillkac.flow.guidance import GuidedVelocity
from distillkac.flow.network_config import NetworkConfig, of_format
from distillkac.runs import checkpoints, pictures, shipped
from distillkac.runs.built import build
from distillkac.runs.class_names import find_all
from distillkac.runs.config import load_config
from distillkac.runs.run import load_network, network_config, new_network, students
from distillkac.runs.sampler import SamplerConfig, Trained
from distillkac.runs.sampling import DECODED_PIXELS, choose, finite, usual_steps
from distillkac.scheduler import KacScheduler

__all__ = ["KacNet", "KacPipeline"]

OUTPUTS = ("pil", "np", "pt")


class KacNet(ModelMixin, ConfigMixin):
    """The network of a run as a model of diffusers. network: settings of a NetworkConfig or an AdoptedNetwork."""

    @register_to_config
    def __init__(
        self,
        network: dict[str, Any],
        shape: tuple[int, int, int],
        class_names: tuple[str, ...],
        format: int = checkpoints.FORMAT,
    ) -> None:
        super().__init__()
        checkpoints.check_format("a saved KacNet", format)
        config = build(NetworkConfig | AdoptedNetwork, network, "network")
        config = of_format(config, format) if isinstance(config, NetworkConfig) else config
        self.velocity = new_network(config, (shape[0], shape[1], shape[2]), len(class_names))

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **options: Any) -> Any:
        """As diffusers has it. What was saved without a format is of an earlier version; raises ValueError if its weights
        do not fit today's network."""
        return super().from_config({"format": 2} | dict(config), return_unused_kwargs, **options)

    @property
    def null_class(self) -> int | None:
        return self.velocity.null_class

    @property
    def guidance_embedding(self) -> bool:
        return self.velocity.guidance_embedding

    @property
    def interval_embedding(self) -> bool:
        return self.velocity.interval_embedding

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        class_labels: torch.Tensor,
        w: torch.Tensor | None = None,
        r: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Velocity like x (B, C, H, W); t (B,) in [0, 1]; class_labels (B,) int64, null_class for no class. r: (B,), the end of
        the step, for a network with interval_embedding.

        x may be float32 whatever the dtype of the weights: the state of a sampler should be.
        """
        further = {} if w is None else {"w": w.to(self.dtype)}
        further |= {} if r is None else {"r": r.float()}
        return self.velocity(x.to(self.dtype), t.float(), class_labels, **further).to(x.dtype)


class KacPipeline(DiffusionPipeline):
    """Images from a finite-speed flow: unet (KacNet), scheduler (KacScheduler) and, if it learned latents, the
    autoencoder.

    trained: what the network was trained for (sampler.Trained as a dict), by which every call is checked as the command
    line checks its options. None, as in pipelines saved by the first versions: nothing is checked.
    process: the noise that it was trained with (flow.Process.to_dict), as every scheduler must have; None: as this one has.
    """

    _optional_components = ["vae"]  # noqa: RUF012  # diffusers adds it to a list
    model_cpu_offload_seq = "unet->vae"
    unet: KacNet
    scheduler: KacScheduler
    vae: AutoencoderKL | VQModel | None

    def __init__(
        self,
        unet: KacNet,
        scheduler: KacScheduler,
        num_inference_steps: int = 20,
        vae: AutoencoderKL | VQModel | None = None,
        trained: dict[str, Any] | None = None,
        process: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, part, kinds in (
            ("unet", getattr(unet, "_orig_mod", unet), KacNet),  # one that torch compiled is inside of another
            ("scheduler", scheduler, KacScheduler),
            ("vae", vae, (AutoencoderKL, VQModel, type(None))),
        ):
            check_kind(name, part, kinds)
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)
        steps = whole("num_inference_steps", num_inference_steps)
        process = process or scheduler.process.to_dict()
        self.register_to_config(num_inference_steps=steps, trained=trained, process=process)
        if trained is None:
            warnings.warn(
                "this pipeline does not know what its network was trained for (it was saved by an earlier version, or made "
                "by hand), so steps and guidance are not checked; save it again from its run folder",
                stacklevel=2,
            )
        else:
            self._settled(steps, None)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        num_inference_steps: int | None = None,
        **options: Any,
    ) -> "KacPipeline":
        """From a run folder of distillkac, a model that comes with it ("digits"), or from what save_pretrained wrote, here or
        on the Hub.

        num_inference_steps: of a run folder the student of that many steps is loaded, if it has one, else the teacher; of a
        shipped model by default the student of most steps.
        options: those of diffusers. A run folder takes torch_dtype (dtype), device_map with the name of a device,
        use_safetensors=True, local_files_only, scheduler and vae; others are refused (_pipeline_options.py). Raises
        ValueError for an option that is not known, or that the place cannot honour.
        """
        place = os.fspath(pretrained_model_name_or_path)
        path = paths.expanded("pretrained_model_name_or_path", paths.from_text(place))
        folder = shipped.folder_of(path, saved=(cls.config_name,))
        if folder.is_file() or (place.startswith(("/", ".", "~")) and not folder.exists()):
            raise ValueError(
                f"{folder} is {'a file' if folder.is_file() else 'not there'}: name a run folder, what save_pretrained wrote, "
                "or a name on the Hub"
            )
        if not _is_run(folder):
            given = {} if num_inference_steps is None else {"num_inference_steps": num_inference_steps}
            name = str(folder) if folder.is_dir() else place
            with progress.quiet("diffusers"), naming_the_place(name):
                pipeline = super().from_pretrained(name, **given, **Options.of_diffusers(cls, options))
            for part in pipeline.components.values():
                if isinstance(part, torch.nn.Module):
                    memory.in_own_memory(part)
            return pipeline
        asked = Options.of_run(options)
        steps = None if num_inference_steps is None else whole("num_inference_steps", num_inference_steps)
        steps = steps or usual_steps(folder)
        if not (folder / checkpoints.CONFIG).exists() or load_config(folder).student is None:
            folder = choose(folder, SamplerConfig(steps=steps))
        config = load_config(folder)
        settings = asdict(network_config(folder, config))
        unet = KacNet(settings, config.shape, config.class_names).float()  # under any default dtype
        unet.velocity.load_state_dict(load_network(folder, config).state_dict())
        vae = asked.vae
        if vae is None and config.latent is not None:
            with progress.quiet("diffusers"):
                vae = load_decoder(config.latent, torch.device("cpu"), asked.local_files_only)
        # One that has no steps yet has length 0.
        scheduler = KacScheduler.from_pretrained(folder) if asked.scheduler is None else asked.scheduler
        pipeline = cls(unet.eval(), scheduler, steps, vae, asdict(Trained.of(config)), config.noise.build().to_dict())
        return asked.place(pipeline)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **options: Any) -> Any:
        """As diffusers does it, with a README.md that says how to load it; one that somebody wrote is kept."""
        result = super().save_pretrained(os.fspath(save_directory), *args, **options)
        _pipeline_card.write(self, Path(save_directory))
        return result

    def _upload_folder(self, working_dir: str | os.PathLike[str], repo_id: str, *args: Any, **options: Any) -> Any:
        _pipeline_card.write(self, Path(working_dir), repo_id)  # in place of diffusers' own, which says nothing
        return super()._upload_folder(working_dir, repo_id, *args, **options)

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """diffusers' bar, on a terminal only unless set_progress_bar_config says otherwise."""
        if "disable" in getattr(self, "_progress_bar_config", {}):
            return super().progress_bar(iterable, total)
        before = getattr(self, "_progress_bar_config", {})
        self._progress_bar_config = {**before, "disable": not progress.on_terminal()}
        try:
            return super().progress_bar(iterable, total)
        finally:
            self._progress_bar_config = before

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Any,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        *,
        gamma: float | None = None,
        launch: float = 0.0,
        landing: float = 0.0,
    ) -> Any:
        """Images of the given classes, one each.

        class_labels: a class or a list, range, array or tensor of them; names or numbers, which mean what they mean on the
        command line (class_names.py): 3 and "3" are the class called 3 if there is one. guidance_scale: 1 + w, as
        diffusers counts it; 1 is no guidance, None what the network was made for. generator: one, or one for each image.
        output_type: "pil", "np" (n, H, W, C) in [0, 1], or "pt" (n, C, H, W) about [-1, 1], not clamped; float32.
        gamma, launch, landing: as the options of `sample` (KacScheduler.set_timesteps), for this call.

        Raises ValueError for what does not exist, and for what the network was not trained for.
        """
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type must be pil, np or pt, got {output_type!r}")
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        steps = whole("num_inference_steps", steps)
        kinetic: dict[str, Any] = {"gamma": gamma, "launch": launch, "landing": landing}
        w = self._settled(steps, guidance_scale, **kinetic)
        classes = find_all(class_labels, list(self.unet.config.class_names))
        channels = self.unet.config.shape[0] if self.vae is None else self.vae.config.out_channels
        if output_type == "pil" and channels not in (1, 3):
            raise ValueError(f"pictures have 1 or 3 channels, these images {channels}: ask for output_type np or pt")
        device = self._execution_device
        y = torch.tensor(classes, device=device)
        field = GuidedVelocity(self.unet, w)
        known = self.config.trained and self.config.trained["num_steps"] is not None
        scheduler = copy.copy(self.scheduler)  # it counts steps, and other threads may be in a call of their own
        scheduler.set_timesteps(steps, device=device, **kinetic, predicts_data=known)
        x = scheduler.prior((len(y), *self.unet.config.shape), generator, device)  # float32, whatever the weights are
        for t in self.progress_bar(scheduler.timesteps):
            end = float(scheduler.next_timestep) if field.takes_end else None
            x = scheduler.step(field(x, float(t), y, end), t, x, return_dict=False, generator=generator)[0]
        images: Any = finite(x.cpu() if self.vae is None else self._decoded(self.vae, x))
        self.maybe_free_model_hooks()
        if output_type == "np":
            images = (images.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()
        elif output_type == "pil":
            images = [pictures.to_pil(image) for image in pictures.to_uint8(images)]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _settled(self, steps: int, guidance_scale: float | None, **kinetic: Any) -> float:
        """The weight w of the field. Raises ValueError where the network cannot do what is asked."""
        scheduler = self.scheduler
        check_kind("scheduler", scheduler, KacScheduler)  # it may be exchanged
        check_scheduler(scheduler, self.unet.interval_embedding, self.config.process)
        w = None if guidance_scale is None else number(guidance_scale) - 1
        if w is not None and not 0 <= w < math.inf:
            raise ValueError(f"guidance_scale is 1 + w and must be at least 1, got {guidance_scale!r}")
        if self.config.trained is None:
            return w or 0.0
        asked = asked_of(scheduler, steps, w, **kinetic)
        try:
            trained = Trained(**self.config.trained)
        except TypeError as error:
            raise ValueError(f"model_index.json: trained is not of this version of distillkac ({error})") from None
        return trained.settle(asked, "this pipeline").w

    def _decoded(self, vae: AutoencoderKL | VQModel, x: torch.Tensor) -> torch.Tensor:
        """Latents (n, c, h, w) -> images on the CPU, float32; a few at a time."""
        config, half = vae.config, vae.dtype
        # Some autoencoders overflow in float16, and say so.
        upcast = half == torch.float16 and config.force_upcast
        if upcast:
            torch.nn.Module.to(vae, torch.float32)
        rows = max(1, DECODED_PIXELS // (x.shape[2] * x.shape[3] * 4 ** (len(config.block_out_channels) - 1)))
        z = (x / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)).to(vae.dtype)
        try:
            return torch.cat([vae.decode(part).sample.float().cpu() for part in z.split(rows)])
        finally:
            if upcast:
                torch.nn.Module.to(vae, half)


def _is_run(folder: Path) -> bool:
    """Whether this is a run folder, trained or not, or one of students; and nothing that save_pretrained wrote."""
    found = (folder / checkpoints.CONFIG).exists() or (folder.is_dir() and bool(students(folder)))
    return found and not (folder / KacPipeline.config_name).exists()
