"""What is asked of an own network before it is trained, so that no training is lost to what cannot be averaged or saved."""

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from distillkac.runs.own_network import check_network
from tests.training.test_own_networks import Net

X, Y = torch.linspace(-1, 1, 32).view(2, 1, 4, 4), torch.tensor([0, 1])


def check(network):
    check_network(network, X, Y, 2)


class Changed(Net):
    """Net, after `change(network)`."""

    def __init__(self, change):
        super().__init__(2)
        change(self)


def masked(network, **options):
    network.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1), **options)


def two_buffers(network):
    table = torch.linspace(0, 1, 4)
    network.register_buffer("one", table)
    network.register_buffer("two", table)


def tied(network):
    network.again = nn.Conv2d(2, 6, 3)
    network.again.weight.data = network.first.weight.data


def overlapping(network):
    table = torch.linspace(0, 1, 4)
    network.register_buffer("one", table[:3])
    network.register_buffer("two", table[2:])


def complex_weight(network):
    network.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))


def lazy(network):
    network.lazy = nn.LazyLinear(3)


def graph(network):
    network.cached = network.first.weight * 2


def renamed(network):
    network.register_state_dict_post_hook(
        lambda module, state, prefix, _: state.update({"other": state.pop("last.bias")})
    )


class Extra(Net):
    def __init__(self):
        super().__init__(2)

    def get_extra_state(self):
        return {"epoch": 3}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (masked, r"mask holds values that are not finite.*persistent=False"),
        (two_buffers, "one memory by two names, one and two"),
        (overlapping, "one memory by two names, one and two"),
        (tied, "one parameter by two names, (first.weight and again.weight|again.weight and first.weight)"),
        (lambda n: n.register_buffer("wide", torch.ones(1).expand(4)), "cannot load what its state_dict gives.*wide"),
        (complex_weight, "phase is torch.complex64, and complex weights are not trained"),
        (lambda n: n.bfloat16(), r"classes.weight is torch.bfloat16.*OptimConfig\(precision=\"bf16\"\)"),
        (lambda n: n.half(), "classes.weight is torch.float16"),
        (lambda n: n.to("meta"), "has no values"),
        (lazy, "lazy.weight has no shape yet"),
        (renamed, "the parameter last.bias is not in its state_dict"),
        (lambda n: n.register_buffer("sparse", torch.eye(3).to_sparse()), "sparse is a Tensor of layout"),
        (graph, "cannot be copied with copy.deepcopy.*: cached is a tensor with a graph"),
        (lambda n: setattr(n, "lock", threading.Lock()), "cannot be copied with copy.deepcopy.*TypeError"),
        (
            lambda n: setattr(n, "guidance_embedding", nn.Linear(1, 1)),
            "guidance_embedding.*must be True or False, got Linear",
        ),
        (lambda n: setattr(n, "null_class", 2.0), "must be 2, the number of classes, got 2.0, a float and not an int"),
        (lambda n: setattr(n, "null_class", np.int64(2)), "a int64 and not an int"),
        (lambda n: setattr(n, "null_class", torch.tensor(2)), "a Tensor and not an int"),
    ],
)
def test_what_cannot_be_averaged_or_saved_is_refused_before_training(change, words):
    with pytest.raises(ValueError, match=f"Changed.*{words}") as refusal:
        check(Changed(change))
    assert "\n" not in str(refusal.value)


def test_a_network_that_is_frozen_is_told_so():
    with pytest.raises(ValueError, match="all parameters of Net have requires_grad False"):
        check(Net(2).requires_grad_(False))


def test_state_that_is_no_tensor_is_refused():
    with pytest.raises(ValueError, match="Extra: _extra_state is a dict, and a checkpoint holds tensors only"):
        check(Extra())


def test_a_copy_that_is_the_network_itself_is_refused():
    class Single(Net):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(ValueError, match=r"Single.__deepcopy__ must return a new Single"):
        check(Single(2))


def test_what_can_be_saved_is_accepted():
    check(Changed(lambda n: masked(n, persistent=False)))
    check(Changed(lambda n: setattr(n, "scale", nn.Parameter(torch.ones(1, dtype=torch.float64)))))
    halves = torch.linspace(0, 1, 4).chunk(2)  # one memory, and yet apart
    check(Changed(lambda n: [n.register_buffer(name, half) for name, half in zip("ab", halves, strict=True)]))
    check(Changed(lambda n: nn.utils.parametrizations.weight_norm(n.first)))


class Remembers(Net):
    """Keeps its last answer, which cannot be copied, and counts its calls."""

    def __init__(self):
        super().__init__(2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, t, y):
        self.calls += 1
        self.answer = super().forward(x, t, y)
        return self.answer


def test_the_network_itself_is_not_called():
    network = Remembers().eval()
    check(network)
    assert network.calls == 0
    assert not hasattr(network, "answer")
    assert not network.training
    network(X, torch.ones(2), Y)
    with pytest.raises(ValueError, match=r"Remembers cannot be copied.*: answer is a tensor"):
        check(network)


class Trains(Net):
    """Answers another way in train mode."""

    def __init__(self, answer):
        super().__init__(2)
        self.answer = answer

    def forward(self, x, t, y):
        u = super().forward(x, t, y)
        return self.answer(self, u) if self.training else u


def new_layer(network, u):
    network.late = nn.Linear(1, 1)
    return u


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            lambda _, u: u.mean((1, 2, 3), keepdim=True),
            r"in train mode must return .*\(2, 1, 4, 4\), got .*\(2, 1, 1, 1\)",
        ),
        (lambda _, u: u / 0, "in train mode returned values that are not finite"),
        (new_layer, "forward adds or removes weights, late.bias"),
    ],
)
def test_train_mode_is_tried_too(answer, words):
    with pytest.raises(ValueError, match=f"Trains.*{words}"):
        check(Trains(answer))


def test_wrappers_and_inference_mode_are_refused_by_name():
    for wrapper in (nn.DataParallel, AveragedModel):
        with pytest.raises(
            ValueError, match=f"network is a {wrapper.__name__}, which wraps another: give .* its .module"
        ):
            check(wrapper(Net()))
    with torch.no_grad():
        check(Net(2))  # training switches gradients on itself
    with torch.inference_mode():
        network = Net(2)
        with pytest.raises(ValueError, match=r"under torch.inference_mode\(\): train outside"):
            check(network)
    with pytest.raises(ValueError, match=r"Net: classes.weight was made under torch.inference_mode\(\)"):
        check(network)


def test_times_are_float32_whatever_the_default_is():
    class Strict(Net):
        def forward(self, x, t, y):
            assert t.dtype == torch.float32
            return super().forward(x, t, y)

    network = Strict(2)
    torch.set_default_dtype(torch.float64)
    try:
        check(network)
    finally:
        torch.set_default_dtype(torch.float32)
