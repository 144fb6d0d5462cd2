"""The Inception network that FID is defined by: TensorFlow's of 2015-12-05, from the weights of pytorch-fid and torch-fidelity.

Written out here because both packages need torchvision and unpickle their weight files; ours is read with weights_only
and computes the same features (tests/evaluation/test_inception.py compares them with torch-fidelity's).
"""

import hashlib
import io
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from distillkac.base.progress import on_terminal

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
MEGABYTES = 96
SIZE = 299
AVERAGE, MAX, HALVE = "average", "max", "halve"  # 3 x 3 pools in a branch; the last with stride 2


class Convolution(nn.Module):
    """Convolution, batch norm, ReLU. kernel: a number or (height, width); padding None keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel, stride: int = 1, padding: int | None = None):
        super().__init__()
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        same = tuple(k // 2 for k in kernel)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, same if padding is None else padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Branches side by side, joined in channels.

    Each branch is a tuple of steps: a pool, or (name, channels, kernel[, stride]), or a list of such convolutions that
    all read what came before (the forks of the last two blocks). Convolutions of stride 2 are not padded.
    """

    def __init__(self, inputs: int, *branches):
        super().__init__()
        self.branches, self.channels = branches, 0
        for branch in branches:
            width = inputs
            for step in branch:
                fork = step if isinstance(step, list) else [step]
                layers = [layer for layer in fork if not isinstance(layer, str)]
                for name, outputs, kernel, *stride in layers:
                    self.add_module(name, Convolution(width, outputs, kernel, *stride, *([0] if stride else [])))
                width = sum(layer[1] for layer in layers) or width
            self.channels += width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for branch in self.branches:
            h = x
            for step in branch:
                if step == HALVE:
                    h = F.max_pool2d(h, 3, 2)
                elif step == MAX:
                    h = F.max_pool2d(h, 3, 1, 1)
                elif step == AVERAGE:  # TensorFlow's averages leave the padding out
                    h = F.avg_pool2d(h, 3, 1, 1, count_include_pad=False)
                elif isinstance(step, list):
                    h = torch.cat([self.get_submodule(name)(h) for name, *_ in step], 1)
                else:
                    h = self.get_submodule(step[0])(h)
            parts.append(h)
        return torch.cat(parts, 1)


def _a(inputs: int, pooled: int) -> Mixed:
    return Mixed(
        inputs,
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        (AVERAGE, ("branch_pool", pooled, 1)),
    )


def _b() -> Mixed:
    return Mixed(
        288,
        (("branch3x3", 384, 3, 2),),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
        (HALVE,),
    )


def _c(n: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    return Mixed(
        768,
        (("branch1x1", 192, 1),),
        (("branch7x7_1", n, 1), ("branch7x7_2", n, row), ("branch7x7_3", 192, column)),
        (
            *(("branch7x7dbl_1", n, 1), ("branch7x7dbl_2", n, column), ("branch7x7dbl_3", n, row)),
            *(("branch7x7dbl_4", n, column), ("branch7x7dbl_5", 192, row)),
        ),
        (AVERAGE, ("branch_pool", 192, 1)),
    )


def _d() -> Mixed:
    wide = (("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)))
    narrow = (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2))
    return Mixed(768, narrow, (*wide, ("branch7x7x3_4", 192, 3, 2)), (HALVE,))


def _e(inputs: int, pool: str) -> Mixed:
    def fork(name: str) -> list:
        return [(f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))]

    return Mixed(
        inputs,
        (("branch1x1", 320, 1),),
        (("branch3x3_1", 384, 1), fork("branch3x3_2")),
        (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")),
        (pool, ("branch_pool", 192, 1)),
    )


class Inception(nn.Module):
    """(B, 3, H, W) uint8 -> (B, 2048) float32, the features before the last layer. Freeze it with eval().

    name, resize, sha256 (of the weight file) describe it in results; num_features is their length.
    """

    name = "Inception-v3 of 2015-12-05, 2048 features of its last pool"
    resize = "bilinear to 299 x 299 as TensorFlow 1 does it: no antialias, corners not aligned"
    num_features = 2048

    def __init__(self, sha256: str = ""):
        super().__init__()
        self.sha256 = sha256
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2, 0)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, 1, 0)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, 1, 0)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.Mixed_7a = _d()
        # That the last block pools by maximum is an oddity of these weights, and part of what FID is.
        self.Mixed_7b, self.Mixed_7c = _e(1280, AVERAGE), _e(2048, MAX)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        x = (resize_bilinear(images.float(), SIZE) - 128) / 128
        for name, layer in self.named_children():
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        return x.mean((2, 3))


def resize_bilinear(x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, C, H, W) float -> (B, C, size, size) as TensorFlow 1: pixel i of the result lies at i H / size of the source."""
    for dim in (2, 3):
        at = torch.arange(size, dtype=torch.float32, device=x.device) * (x.shape[dim] / size)
        low = at.long()
        high = (low + 1).clamp(max=x.shape[dim] - 1)
        share = (at - low).view(-1, *[1] * (3 - dim))
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), share)
    return x


def cached_file() -> Path:
    """Where torch hub, pytorch-fid and torch-fidelity keep the weights too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]


def find_weights(choice: str | None) -> Path:
    """The weight file: `choice` itself, or downloaded for "download", or for None what an earlier download left.

    Raises ValueError saying how to get it if there is none or the download fails.
    """
    path = cached_file()
    if choice == "download":
        if not os.path.exists(path):
            if str(path).startswith("~"):  # torch found no home folder, and would make one of that name here
                raise ValueError(
                    "there is no home folder to keep the Inception weights in: set TORCH_HOME, or give --inception FILE"
                )
            print(f"downloading the Inception weights, {MEGABYTES} MB, from {URL} to {path}", flush=True)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256, progress=on_terminal())
            except (OSError, RuntimeError) as error:  # no network or no space; another file than expected
                raise ValueError(
                    f"{URL}: cannot be downloaded to {path} ({error}); bring the file from elsewhere and give --inception FILE"
                ) from None
    elif choice is not None:
        path = Path(choice).expanduser()
    elif not os.path.exists(path):  # where Path.exists would end in "permission denied"
        raise ValueError(
            f"fid, kid and precision-recall need the weights of the Inception network: add --inception download "
            f"({MEGABYTES} MB from {URL} to {path.parent}) or --inception FILE"
        )
    if not path.is_file():
        raise ValueError(f"--inception: there is no file {path}; give the .pth file, or the word download")
    return path


def load_inception(path: Path) -> Inception:
    """The network in eval mode. The file is read as tensors only and cannot run code. Raises ValueError naming it."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    expected = f"expected the weights of {URL.rsplit('/', 1)[1]}"
    try:
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: no file of weights, or damaged ({str(error).splitlines()[0]}); {expected}") from None
    network = Inception(digest)
    try:
        # The classes' layer lies behind the features.
        network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("fc.")})
    except (RuntimeError, AttributeError, TypeError):
        raise ValueError(f"{path}: not the weights of this Inception network; {expected}") from None
    if digest != SHA256:
        network.name = f"Inception-v3 with the weights of {path.name}"
        print(f"warning: {path} is not the file that FID is defined by (sha256 {SHA256[:8]}...): compare with no one")
    return network.eval().requires_grad_(False)
