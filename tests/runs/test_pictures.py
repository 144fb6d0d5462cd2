"""Pictures: right pixels in right places, whole files or none, legible content."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from distillkac.runs import pictures, plots


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_grid_places_every_image_and_clamps(tmp_path):
    levels = torch.tensor([-1.0, -0.5, 0.0, 0.5, 7.0])
    images = levels.view(5, 1, 1, 1).expand(5, 1, 4, 6)
    pictures.save_grid(images, tmp_path / "new" / "grid.png", columns=3, scale=10)
    pixels = read(tmp_path / "new" / "grid.png")
    gap = 2
    assert pixels.shape == (2 * 40 + 3 * gap, 3 * 60 + 4 * gap)
    for i, level in enumerate([0, 64, 128, 191, 255]):
        top, left = gap + i // 3 * (40 + gap), gap + i % 3 * (60 + gap)
        assert (pixels[top : top + 40, left : left + 60] == level).all()
        assert (pixels[top - gap : top, left : left + 60] == pictures.GREY).all()
    assert (pixels[-42:, -62:] == pictures.GREY).all(), "no sixth image"


def test_grid_enlarges_each_pixel_to_a_square(tmp_path):
    images = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    pictures.save_grid(images, tmp_path / "grid.png")
    pixels = read(tmp_path / "grid.png")[2:-2, 2:-2]
    assert pixels.shape == (50, 70, 3), "the least whole number that gives 48 pixels of height; one column suffices"
    assert (pixels == pictures.to_uint8(images)[0].repeat(10, 0).repeat(10, 1)).all()


def test_strips_stand_beside_their_titles(tmp_path):
    strips = [torch.full((3, 1, 8, 8), level) for level in (-1.0, 1.0)]
    for titles in (("a", "b"), ("a", "a much longer title, σ = 1")):
        pictures.save_strips(strips, titles, tmp_path / "strips.png")
        pictures.save_grid(torch.cat(strips), tmp_path / "grid.png", columns=3)
        pixels, grid = read(tmp_path / "strips.png"), read(tmp_path / "grid.png")
        margin = pixels.shape[1] - grid.shape[1]
        assert (pixels[:, margin:] == grid[..., None]).all()
        texts = np.split(pixels[:, :margin].min(2) < 128, 2)
        assert all(text.any() and not text[:, :4].any() and not text[:, -4:].any() for text in texts)
    assert texts[1].sum() > 5 * texts[0].sum()


def test_large_images_keep_their_size(tmp_path):
    pictures.save_grid(torch.zeros(2, 1, 96, 100), tmp_path / "grid.png")
    assert read(tmp_path / "grid.png").shape == (96 + 2 * 4, 2 * 100 + 3 * 4)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (3, 8, 8), (2, 2, 8, 8)])
def test_grid_refuses_other_shapes(tmp_path, shape):
    with pytest.raises(ValueError, match="images must be"):
        pictures.save_grid(torch.zeros(shape), tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"columns": 0}, {"scale": 0}])
def test_grid_refuses_bad_options(tmp_path, options):
    with pytest.raises(ValueError, match="at least 1"):
        pictures.save_grid(torch.zeros(2, 1, 8, 8), tmp_path / "grid.png", **options)


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    pictures.save_grid(torch.zeros(2, 1, 8, 8), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        pictures.save_grid(torch.ones(2, 1, 8, 8), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("count", [1, 2, 150])
def test_curves_are_drawn_for_any_number_of_lines(tmp_path, count):
    lines = [{"step": 20 * k, "loss": 2.0 / k, "lr": 1e-3 / k, "grad_norm": 0.5} for k in range(1, count + 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plots.save_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    pixels = read(tmp_path / "curves.png")
    blue = np.array([int(plots.LINE[i : i + 2], 16) for i in (1, 3, 5)])
    drawn = (np.abs(pixels.astype(int) - blue).max(2) < 8).any(0)
    if count > 1:
        for panel in np.array_split(drawn, 3):
            assert panel.mean() > 0.4, "a curve across each of the three panels"


def test_curves_without_metrics(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for name in ("missing.jsonl", "empty.jsonl"):
        with pytest.raises(ValueError, match=name):
            plots.save_curves(tmp_path / name, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_smoothing_keeps_lines_and_averages_noise():
    line = np.linspace(0, 1, 200)
    np.testing.assert_allclose(plots._smooth(line), line, atol=1e-12)
    rough = np.random.default_rng(0).standard_normal(400)
    assert plots._smooth(rough)[20:-20].std() < 0.35 * rough.std()


def test_trajectory_goes_from_noise_to_data_evenly_in_time(tmp_path):
    times = (1 - torch.arange(101) / 100) ** 2  # many steps near the data, few near the noise
    states = (1 - 2 * times).view(101, 1, 1, 1, 1).expand(101, 3, 1, 8, 8)
    plots.save_trajectory(states, times, tmp_path / "t.png", columns=5)
    pixels = read(tmp_path / "t.png")[..., 0].astype(int)
    columns = [pixels[-50, int((i + 0.5) / 5 * pixels.shape[1])] for i in range(5)]
    np.testing.assert_allclose(columns, [0, 64, 128, 191, 255], atol=5)
    rows = [pixels[-1 - int((i + 0.5) * pixels.shape[1] / 5), 20] for i in range(3)]
    assert rows == [0, 0, 0], "three samples, noise at the left"
    assert pixels[:40].min() < 100, "the times are written above"


def test_trajectory_with_fewer_steps_than_columns_and_colours(tmp_path):
    plots.save_trajectory(torch.zeros(2, 4, 3, 8, 8), [1.0, 0.0], tmp_path / "t.png")
    height, width, _ = read(tmp_path / "t.png").shape
    assert width < height


def test_trajectory_needs_a_time_for_every_state(tmp_path):
    with pytest.raises(ValueError, match="N \\+ 1 times"):
        plots.save_trajectory(torch.zeros(3, 4, 1, 8, 8), [1.0, 0.0], tmp_path / "t.png")


def test_animation_goes_from_the_first_state_to_the_last(tmp_path):
    states = torch.linspace(1, -1, 9).view(9, 1, 1, 1, 1).expand(9, 4, 1, 8, 8)
    pictures.save_animation(states, tmp_path / "way.gif", columns=2, frames=5)
    with Image.open(tmp_path / "way.gif") as way:
        levels = []
        for frame in range(way.n_frames):
            way.seek(frame)
            levels.append(int(np.asarray(way.convert("L"))[20, 20]))
        assert way.info["duration"] == 1500
    assert levels == pytest.approx([255, 191, 128, 64, 0], abs=2)
    with pytest.raises(ValueError, match="states must be"):
        pictures.save_animation(states[:1], tmp_path / "way.gif")
