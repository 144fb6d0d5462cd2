"""The transformer: where its patches lie, what rotary positions and norms of queries and keys do, and w as an input."""

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import nn

from distillkac.base.random import generator
from distillkac.flow import transformer
from distillkac.flow.networks import NetworkConfig, VelocityNet

CONFIG = NetworkConfig("dit", channels=(16,), layers=2, head_dim=8, qk_norm=True, rotary=True)


def normal(*shape):
    return torch.randn(*shape, generator=generator(3, "transformer"))


def woken(network, *parts):
    """With the parameters whose names have one of these parts in them away from their zero start."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(part in name for part in parts):
                parameter.copy_(0.3 * normal(*parameter.shape))
    return network.eval()


@pytest.mark.parametrize("shape", [(3, 6, 10), (1, 8, 4), (2, 6, 6)])
def test_each_patch_answers_where_it_lies(shape):
    """As long as the blocks are the identity, a pixel has an effect on its own patch and on no other."""
    network = woken(VelocityNet(CONFIG, shape, 10), "proj_out", "pos_embed")
    x, t, y = normal(1, *shape), torch.tensor([0.4]), torch.tensor([2])
    with torch.no_grad():
        before = network(x, t, y)
        for row, column in ((0, 0), (3, 1), (shape[1] - 1, shape[2] - 1), (0, shape[2] - 1)):
            other = x.clone()
            other[:, :, row, column] += 1.0
            changed = (network(other, t, y) - before).abs().amax((0, 1)) > 1e-6
            expected = torch.zeros(shape[1:], dtype=torch.bool)
            top, left = row // 2 * 2, column // 2 * 2
            expected[top : top + 2, left : left + 2] = True
            assert torch.equal(changed, expected)


def test_patches_are_put_together_as_diffusers_does_it():
    shape = (2, 6, 6)
    network = woken(VelocityNet(CONFIG, shape, 10), "")
    x, t, y = normal(3, *shape), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 4, 10])
    with torch.no_grad():
        expected = network(x, t, y)
        network.dit.proj_out_2.register_forward_hook(transformer._each_alone)
        patches = network(x, t, y)
    assert patches.shape == (3 * 9, 2, 2, 2)
    torch.testing.assert_close(transformer._together(patches, x.shape), expected)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 12, 4), (1, 4, 14)])
def test_every_position_has_a_place_of_its_own(shape):
    network = VelocityNet(CONFIG, shape, 10)
    count = shape[1] * shape[2] // 4
    places = network.dit.pos_embed.pos_embed[0]
    assert network.positions == len(places) == network.rotary.shape[1] == count
    for table in (places, network.rotary.transpose(0, 1).flatten(1)):
        assert torch.pdist(table).min() > 0.1


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 12, 6)])
def test_rotary_positions_tell_rows_and_columns_apart_by_their_distance(shape):
    """What a query and a key have to say to each other depends on how many rows and columns lie between them, and on nothing
    else."""
    cos, sin = transformer.rotation(CONFIG, shape)
    rows, columns = shape[1] // 2, shape[2] // 2
    q, k = (
        apply_rotary_emb(normal(8).expand(1, 1, rows * columns, 8).double(), (cos, sin))[0, 0],
        apply_rotary_emb(normal(2, 8)[1].expand(1, 1, rows * columns, 8).double(), (cos, sin))[0, 0],
    )
    scores = (q @ k.mT).view(rows, columns, rows, columns)
    by_distance: dict = {}
    for r, c, r2, c2 in torch.cartesian_prod(*map(torch.arange, (rows, columns, rows, columns))).tolist():
        by_distance.setdefault((r2 - r, c2 - c), []).append(scores[r, c, r2, c2].item())
    assert all(max(found) - min(found) < 1e-5 for found in by_distance.values())
    means = torch.tensor([found[0] for found in by_distance.values()])
    assert len(means) == (2 * rows - 1) * (2 * columns - 1)
    assert (means[:, None] - means).abs().fill_diagonal_(1).min() > 1e-7


def test_queries_and_keys_of_any_length_attend_alike():
    x, t, y = normal(2, 1, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([1, 10])
    changes = []
    for qk_norm in (True, False):
        config = NetworkConfig("dit", channels=(16,), layers=2, head_dim=8, qk_norm=qk_norm)
        network = woken(VelocityNet(config, (1, 8, 8), 10), "")
        with torch.no_grad():
            before = network(x, t, y)
            for block in network.dit.transformer_blocks:
                for layer in (block.attn1.to_q, block.attn1.to_k):
                    layer.weight *= 10
                    layer.bias *= 10
            changes.append(float((network(x, t, y) - before).norm() / before.norm()))
    assert changes[0] < 1e-3 < 1e-2 < changes[1]


def test_position_matters_to_attention_itself():
    """With the table of sines away, rotary positions alone tell an image from one whose patches changed places."""
    x, t, y = normal(1, 1, 8, 8), torch.tensor([0.5]), torch.tensor([1])
    swapped = torch.cat([x[:, :, 2:4], x[:, :, :2], x[:, :, 4:]], 2)
    differences = []
    for rotary in (True, False):
        config = NetworkConfig("dit", channels=(16,), layers=2, head_dim=8, rotary=rotary)
        network = woken(VelocityNet(config, (1, 8, 8), 10), "")
        nn.init.zeros_(network.dit.pos_embed.pos_embed)
        with torch.no_grad():
            rest = (network(x, t, y) - network(swapped, t, y))[:, :, 4:]
        differences.append(float(rest.abs().max()))
    assert differences[0] > 1e-3 > 1e-5 > differences[1]


@pytest.mark.parametrize("interval", [False, True])
def test_weights_of_a_network_with_further_numbers_are_loaded_again(interval):
    config = NetworkConfig("dit", channels=(16,), head_dim=8, guidance_embedding=True, interval_embedding=interval)
    network = woken(VelocityNet(config, (1, 8, 8), 10), "")
    again = VelocityNet(config, (1, 8, 8), 10).eval()
    again.load_state_dict(network.state_dict())
    x, t, y, w = normal(2, 1, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([1, 10]), torch.tensor([0.5, 3.0])
    further = (w, t / 2) if interval else (w,)
    with torch.no_grad():
        torch.testing.assert_close(again(x, t, y, *further), network(x, t, y, *further))
