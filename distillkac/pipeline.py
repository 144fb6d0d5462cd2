"""A run as a pipeline of the diffusers library: load, sample, save, share.

pipeline = KacPipeline.from_pretrained("runs/demo", num_inference_steps=4)
images = pipeline(class_labels=[3, 1, 4], generator=torch.Generator().manual_seed(0)).images
pipeline.save_pretrained("kac-digits")            # and push_to_hub
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config

from distillkac import checkpoints, networks, plots
from distillkac.config import load_config
from distillkac.guidance import GuidedVelocity
from distillkac.networks import NetworkConfig, VelocityNet
from distillkac.sampling import SamplerConfig, choose
from distillkac.scheduler import KacScheduler
from distillkac.training import load_network
from distillkac.vae import decoder


class KacNet(ModelMixin, ConfigMixin):
    """networks.VelocityNet as a model of diffusers: u(x, t, class_labels), with config and safetensors weights."""

    @register_to_config
    def __init__(
        self,
        network: dict,
        shape: tuple[int, int, int],
        class_names: tuple[str, ...],
        format: int = checkpoints.FORMAT,
    ):
        super().__init__()
        settings = {name: tuple(v) if isinstance(v, list) else v for name, v in network.items()}
        config = NetworkConfig(**settings)
        checkpoints.check_format("a saved KacNet", format)
        networks.check_format(config, format)
        self.velocity = VelocityNet(config, tuple(shape), len(class_names))

    @classmethod
    def from_config(cls, config, return_unused_kwargs: bool = False, **options):
        """As diffusers has it. What was saved without a format is of an earlier version; raises ValueError if its weights
        do not fit today's network."""
        return super().from_config({"format": 2} | dict(config), return_unused_kwargs, **options)

    @property
    def null_class(self) -> int:
        return self.velocity.null_class

    @property
    def guidance_embedding(self) -> bool:
        return self.velocity.guidance_embedding

    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor, w: torch.Tensor | None = None):
        """Velocity like x (B, C, H, W); t (B,) in [0, 1]; class_labels (B,) int64, null_class for no class."""
        return self.velocity(x, t, class_labels, w)


class KacPipeline(DiffusionPipeline):
    """Images from a finite-speed flow: unet (KacNet), scheduler (KacScheduler) and, if it learned latents, the
    autoencoder."""

    _optional_components = ["vae"]  # noqa: RUF012  # diffusers adds it to a list

    def __init__(
        self,
        unet: KacNet,
        scheduler: KacScheduler,
        num_inference_steps: int = 20,
        vae: AutoencoderKL | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, vae=vae)
        self.register_to_config(num_inference_steps=num_inference_steps)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, num_inference_steps: int | None = None, **options):
        """From a run folder of distillkac, or from what save_pretrained wrote, here or on the Hub.

        num_inference_steps: of a run folder the student of that many steps is loaded, if it has one, else the teacher.
        """
        folder = Path(pretrained_model_name_or_path)
        if not (folder / checkpoints.EMA).exists():
            pipeline = super().from_pretrained(pretrained_model_name_or_path, **options)
            for part in pipeline.components.values():
                if isinstance(part, torch.nn.Module):
                    networks.in_own_memory(part)
            return pipeline
        student = load_config(folder).student
        steps = num_inference_steps or (student.num_steps if student else 20)
        if student is None:
            folder = choose(folder, SamplerConfig(steps=steps))
        config = load_config(folder)
        settings = {name: getattr(config.network, name) for name in NetworkConfig.__dataclass_fields__}
        unet = KacNet(settings, config.shape, config.class_names)
        unet.velocity.load_state_dict(load_network(folder, config).state_dict())
        vae = decoder(config.latent, torch.device("cpu")) if config.latent is not None else None
        return cls(unet.eval(), KacScheduler.from_pretrained(folder), steps, vae)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int | str],
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ):
        """Images of the given classes, numbers or names, one each.

        guidance_scale: 1 + w, as diffusers counts it; 1 is no guidance. output_type: "pil", "np" (n, H, W, C) in [0, 1],
        or "pt" (n, C, H, W) in [-1, 1]. Raises ValueError for a class or output type that does not exist.
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be pil, np or pt, got {output_type!r}")
        if guidance_scale < 1:
            raise ValueError(f"guidance_scale is 1 + w and must be at least 1, got {guidance_scale}")
        device = self._execution_device
        y = torch.tensor([self._class(label) for label in class_labels], device=device)
        field = GuidedVelocity(self.unet, guidance_scale - 1)
        self.scheduler.set_timesteps(num_inference_steps or self.config.num_inference_steps, device=device)
        x = self.scheduler.prior((len(y), *self.unet.config.shape), generator, device)
        for t in self.progress_bar(self.scheduler.timesteps):
            x = self.scheduler.step(field(x, float(t), y), t, x).prev_sample
        if self.vae is not None:
            x = self.vae.decode(x / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0)).sample
        images = x.cpu()
        if output_type == "np":
            images = (images.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()
        elif output_type == "pil":
            images = [plots.to_pil(image) for image in plots.to_uint8(images)]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _class(self, label: int | str) -> int:
        names = list(self.unet.config.class_names)
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, int) and 0 <= label < len(names):
            return label
        raise ValueError(f"class {label!r} is unknown; the {len(names)} classes are {', '.join(names[:20])}")
