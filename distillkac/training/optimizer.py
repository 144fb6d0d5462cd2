"""The optimizers of the training loop: AdamW, and Muon, which leaves to AdamW what is no inner weight matrix.

Muon (K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) moves a matrix by its averaged gradient with all
singular values near 1. torch.optim.Muon does not serve here: it takes no convolutions, computes in bfloat16, which CPUs are
slow at, and leaves the other parameters to a second optimizer.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from distillkac.runs.optim_config import OptimConfig
from distillkac.training import orthogonal, sharding

MOMENTUM = 0.95
ADAMW_EPS = 1e-8  # torch's default, which AdamW has here without Muon
# Of a random matrix's orthogonal part, sqrt(larger side) * this has the root mean square that AdamW's updates have, so that
# the learning rates of AdamW serve (J. Liu et al. 2025, arXiv 2502.16982; torch calls it match_rms_adamw).
UPDATE_RMS = 0.2
# Larger networks, by the numbers in Muon's matrices, are not recorded as CUDA graphs, which keep some copies of them: a GPU
# computes the products of those for longer than it takes to start them.
RECORDED = 2**24
RECORDINGS = 4  # of different matrices at most: own networks may use other layers in each step
STATE = {True: {"momentum_buffer"}, False: {"step", "exp_avg", "exp_avg_sq"}}  # of a parameter, by whether Muon has it

# What they call weight is a table or a list of factors, no map from one layer to the next.
NO_MATRICES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


class Muon(torch.optim.Optimizer):
    """Muon for the parameters of the groups whose "muon" is True, AdamW for the others; `lr` and `weight_decay` mean the same
    for both, `betas` are AdamW's.

    An update of a matrix W with gradient G, of dtype and device of W: M <- M + (1 - MOMENTUM) (G - M), U = G + MOMENTUM (M - G)
    (Nesterov), W <- (1 - lr weight_decay) W - lr UPDATE_RMS sqrt(larger side) orthogonalized(U). Convolution kernels (out, in,
    k, k) are matrices (out, in k k). Where weights are sharded, every process finds the updates of whole matrices.

    shared: whether the processes of torch's group, all of which step together with the same gradients, find a part of the
    updates each and give them to the others; the updates are the same.
    """

    def __init__(
        self,
        groups: list[dict],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        fused: bool,
        shared: bool = False,
    ):
        # The name "fused" is what tells torch where the number of steps of a loaded state belongs.
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "fused": fused})
        self.shared = shared
        self._recordings: dict[tuple, orthogonal.Recording] = {}

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient. closure: always None, nothing here asks for the loss again."""
        assert closure is None
        for group in self.param_groups:
            found = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not group["muon"]:
                self._adamw(found, group)
                continue
            recorded = self._are_recorded(found)
            for together in self._together(found, recorded):
                updates = self._updates([self._direction(parameter) for parameter in together], recorded)
                torch._foreach_mul_(updates, [UPDATE_RMS * max(update.shape) ** 0.5 for update in updates])
                mine = [
                    sharding.local(sharding.like(update.view(parameter.shape), parameter))
                    for parameter, update in zip(together, updates, strict=True)
                ]
                weights = [sharding.local(parameter) for parameter in together]
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_sub_(weights, mine, alpha=group["lr"])

    def _are_recorded(self, found: list[Tensor]) -> bool:
        """Whether a CUDA graph makes them orthogonal, all at once: on the GPU that torch uses now, if no process has a part."""
        if self.shared or not found or any(each.device.type != "cuda" or _is_sharded(each) for each in found):
            return False
        here = {torch.device("cuda", torch.cuda.current_device())}
        return sum(each.numel() for each in found) <= RECORDED and {each.device for each in found} == here

    def _together(self, found: list[Tensor], recorded: bool) -> list[list[Tensor]]:
        """What is updated at once, whose whole updates lie in memory meanwhile."""
        if found and (self.shared or recorded):
            return [found]
        if any(map(_is_sharded, found)):
            return [[each] for each in found]
        return [[found[i] for i in places] for places in orthogonal.alike(found)]

    def _updates(self, directions: list[Tensor], recorded: bool) -> list[Tensor]:
        """The directions made orthogonal."""
        if self.shared:
            return orthogonal.found_together(directions)
        key = tuple((each.shape, each.dtype, each.device) for each in directions)
        if not recorded or (key not in self._recordings and len(self._recordings) >= RECORDINGS):
            return orthogonal.all_orthogonalized(directions)
        if key not in self._recordings:
            self._recordings[key] = orthogonal.Recording(directions)
        return self._recordings[key](directions)

    def _direction(self, parameter: Tensor) -> Tensor:
        """What is made orthogonal, as a whole matrix; the momentum goes one step further."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        return sharding.whole(gradient.lerp(momentum, MOMENTUM)).flatten(1)

    def _adamw(self, found: list[Tensor], group: dict) -> None:
        """As torch.optim.AdamW does it, to the bit."""
        for parameter in found:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in found]
        adamw(
            found,
            [parameter.grad for parameter in found if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=ADAMW_EPS,
            maximize=False,
        )


def _is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "placements")


def build(network: nn.Module, optim: OptimConfig, shared: bool = False) -> torch.optim.Optimizer:
    """The optimizer that `optim` names, for all parameters of a network. shared: see Muon. Raises ValueError if Muon would have
    no parameter."""
    groups, betas = parameter_groups(network, optim), (optim.beta1, optim.beta2)
    if optim.optimizer == "muon":
        return Muon(groups, optim.lr, betas, optim.weight_decay, True, shared)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=betas, weight_decay=optim.weight_decay, fused=True)


def parameter_groups(network: nn.Module, optim: OptimConfig) -> list[dict]:
    """The network's groups (see training.Objective); for Muon each is two, its matrices and what AdamW has."""
    named = getattr(network, "param_groups", None)
    groups = named() if callable(named) else [{"params": network.parameters()}]
    groups = [group | {"params": list(group["params"])} for group in groups]
    if optim.optimizer != "muon":
        return groups
    chosen = {id(parameter) for parameter in matrices(network)}
    if not chosen:
        raise ValueError(
            f"optim.optimizer muon: {type(network).__name__} has no weight matrix between its first and its last layer: use "
            "adamw"
        )
    split = [
        group | {"params": [p for p in group["params"] if (id(p) in chosen) is muon], "muon": muon}
        for group in groups
        for muon in (True, False)
    ]
    return [group for group in split if group["params"]]


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that Muon has: the weights of layers that are not `outer_layers`, see _layers."""
    outer = {id(part) for layer in outer_layers(network) for part in layer.modules()}
    return [weight for layer, weight in _layers(network) if id(layer) not in outer]


def outer_layers(network: nn.Module) -> list[nn.Module]:
    """The layers through which something enters or leaves a network, which AdamW has with all that is in them.

    What the network's own method `outer_layers()` returns, a list; without one, the first and the last of its layers in the
    order in which they were registered. Raises ValueError if there is no such list of modules of the network.
    """
    named = getattr(network, "outer_layers", None)
    if named is None:
        layers = [layer for layer, _ in _layers(network)]
        return [layers[0], layers[-1]] if layers else []
    found = named() if callable(named) and not isinstance(named, nn.Module) else None
    own = {id(module) for module in network.modules()}
    if not isinstance(found, list | tuple) or any(id(layer) not in own for layer in found):
        raise ValueError(
            f"{type(network).__name__}.outer_layers must be a method that returns a list of modules of the network, got "
            f"{named if found is None else found!r:.80}"
        )
    return list(found)


def _layers(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Every layer that has a matrix, and the matrix: the parameter `weight` of a module, in torch as in networks' own layers,
    with two sides or more (after flattening) that are longer than 1.

    None are the tables and factors of NO_MATRICES, parameters by other names (positions, tokens), and the kernels of grouped
    convolutions, whose rows belong to different inputs.
    """
    for module in network.modules():
        name = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
        groups = getattr(module, "groups", 1)
        if isinstance(module, NO_MATRICES) or (isinstance(groups, int) and groups > 1):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            if own == name and parameter.ndim > 1 and 1 < len(parameter) < parameter.numel():
                yield module, parameter
