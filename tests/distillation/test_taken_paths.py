"""Stored paths out of a folder that keeps more states of the same ones."""

import dataclasses

import pytest
import torch

from tests.distillation.test_stored_paths import about, stored


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_states_that_a_folder_of_more_of_them_has_are_taken_from_there(tmp_path, kept):
    more = stored(tmp_path, about(num_steps=12, num_states=6))
    more(torch.arange(20))
    more.close()
    config = about(num_steps=12, num_states=kept)
    alone = stored(tmp_path / "alone", config)
    expected = alone(torch.arange(20))[0]
    alone.close()

    def never(x, t, y):
        raise AssertionError("made again")

    taken = stored(tmp_path, config, network=never)
    assert torch.equal(taken(torch.arange(20))[0], expected)
    taken.close()
    assert taken.folder != more.folder


@pytest.mark.parametrize("other", ["damaged", "of other paths", "of a number that is no multiple"])
def test_states_of_another_folder_are_only_taken_where_they_are_those(tmp_path, other):
    config = about(num_steps=12, num_states=2)
    changes = {"of other paths": {"num_states": 6, "seed": 5}, "of a number that is no multiple": {"num_states": 3}}
    more = stored(tmp_path, dataclasses.replace(config, **changes.get(other, {"num_states": 6})))
    more(torch.arange(20))
    more.close()
    if other == "damaged":
        [file] = more.folder.glob("states-*.npy")
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
    alone, beside = stored(tmp_path / "alone", config), stored(tmp_path, config)
    assert torch.equal(beside(torch.arange(20))[0], alone(torch.arange(20))[0])
    for paths in (alone, beside):
        paths.close()
