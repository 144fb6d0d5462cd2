"""Weights in a fifth of their room, for the models that are shipped (shipped/): near to what was trained, and the same bits on
any machine.

A tensor of two or more dimensions becomes whole numbers in [-127, 127] times a scale for each row, its first dimension. The
scale is `grain` times the row's root mean square, so that few numbers are common; deflate writes those in few bits: 6.2 a
weight with a grain of 0.06, where float16 takes 16. Tensors of one dimension are float16. To unpack is one product of a whole
number of 8 bits and a float16, which float32 holds exactly.
"""

import json
import math
import zlib
from collections.abc import Mapping

import torch

GRAIN = 0.06
"""Error of a weight: uniform in half a grain either way, 2% of its row's root mean square."""
MARK, NUMBERS, SCALE = "packed", "numbers", ".scale"
LARGEST = 127
MOST = 64  # numbers of a byte of deflate; ours have fewer than two, and a file made to fill the memory would have a thousand


def pack(weights: Mapping[str, torch.Tensor], grain: float = GRAIN) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors, metadata) for a safetensors file. weights: float32 tensors on the CPU.

    Raises ValueError if the grain is out of range, or weights cannot be packed: of another type, or too large for float16.
    """
    if not 1 / LARGEST <= grain <= 1:
        raise ValueError(f"grain must lie in [1/{LARGEST}, 1], got {grain:g}")
    tensors, shapes, stream = {}, {}, bytearray()
    for name, value in sorted(weights.items()):
        if value.dtype != torch.float32:
            raise ValueError(f"{name} is {value.dtype}, and only float32 is packed")
        if value.dim() < 2:
            tensors[name] = value.half()
            continue
        rows = value.flatten(1)
        scale = torch.maximum(grain * rows.square().mean(1).sqrt(), rows.abs().amax(1) / LARGEST).half()
        # A row of nothing, or of less than float16 can tell from nothing.
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        numbers = (rows / scale.float()[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
        tensors[name + SCALE], shapes[name] = scale, list(value.shape)
        stream += numbers.numpy().tobytes()
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} is too large for float16, or not finite")
    tensors[NUMBERS] = torch.frombuffer(bytearray(_deflated(bytes(stream))), dtype=torch.uint8)
    return tensors, {MARK: json.dumps(shapes)}


def unpack(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The float32 weights of what `pack` made. Raises ValueError if it is not that."""
    try:
        shapes = {name: [int(size) for size in shape] for name, shape in json.loads(metadata[MARK]).items()}
        stream = _inflated(tensors[NUMBERS], sum(map(math.prod, shapes.values())))
        weights, first = {}, 0
        for name, shape in shapes.items():
            numbers = stream[first : first + math.prod(shape)].view(shape)
            first += numbers.numel()
            scale = tensors[name + SCALE].float()
            weights[name] = numbers.float() * scale.view(-1, *[1] * (len(shape) - 1))
        taken = {NUMBERS, *(name + SCALE for name in shapes)}
        return weights | {name: value.float() for name, value in tensors.items() if name not in taken}
    except (KeyError, AttributeError, TypeError, RuntimeError, json.JSONDecodeError, zlib.error) as error:
        raise ValueError(f"its weights are packed in no way that is known ({error})") from None


def _deflated(numbers: bytes) -> bytes:
    # They repeat by chance alone: codes of few bits for those that are common, and no search for repetitions, is 6% smaller.
    writer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return writer.compress(numbers) + writer.flush()


def _inflated(data: torch.Tensor, count: int) -> torch.Tensor:
    """(count,) int8."""
    packed = data.numpy().tobytes()
    if not 0 <= count <= MOST * len(packed):
        raise ValueError(f"it claims {count} weights in {len(packed)} bytes")
    numbers = bytearray(zlib.decompressobj().decompress(packed, count + 1))
    if len(numbers) != count:
        raise ValueError(f"it holds other than the {count} weights it claims")
    return torch.frombuffer(numbers, dtype=torch.int8) if count else torch.empty(0, dtype=torch.int8)
