"""The demo page in a real browser: what a user clicks and sees."""

import shutil

import numpy as np
import pytest
from PIL import Image

from distillkac.web.engine import Demo
from tests.web.demo_tools import CPU

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium found")

ANSWER = "#results :is(.kac-card, [role=alert])"
PICTURE = ".kac-card img:visible"


@pytest.fixture(scope="module")
def served(runs):
    """The page of a telegraph run with a student of 2 steps and of a planar teacher."""
    from distillkac.web import page as demo_page

    page = demo_page.serve(Demo(runs, CPU))
    yield page
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Containers often lack what Chromium's own sandbox needs; the one page it opens is ours.
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(served, browser):
    """The page open in a window of its own; afterwards nothing may have been asked of another machine."""
    tab = browser.new_page(viewport={"width": 1300, "height": 900})
    tab.set_default_timeout(120_000)  # a machine busy with other tests
    asked, complaints = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(served.local_url)
    yield tab
    tab.close()
    assert [url for url in asked if not url.startswith((served.local_url, "data:"))] == []
    assert complaints == []


def generate(page, **fields):
    """Fills in, clicks, and waits for the answer to that click."""
    for label, value in fields.items():
        page.get_by_label(label).fill(value)
    # What the last answer showed is marked, so that it is not taken for the new one.
    page.evaluate(f"document.querySelectorAll('{ANSWER}').forEach(e => e.setAttribute('data-old', ''))")
    page.get_by_role("button", name="Generate").click()
    page.locator(f"{ANSWER}:not([data-old])").first.wait_for()


def sources(page):
    """The pictures shown, as their data."""
    return page.locator(PICTURE).evaluate_all("images => images.map(image => image.src)")


def test_click_shows_a_card_for_each_choice(page, tmp_path):
    page.get_by_label("2", exact=True).check()
    generate(page)
    cards = page.locator(".kac-card")
    texts = [cards.nth(i).inner_text().split() for i in range(cards.count())]
    assert [" ".join(words[:5]) for words in texts] == [
        f"{steps} step{'s' * (steps > 1)} {network} NFE {steps},"
        for steps, network in ((1, "teacher"), (2, "student-2"), (4, "teacher"), (20, "teacher"))
    ]
    left, right = (cards.nth(i).bounding_box() for i in range(2))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]
    page.screenshot(path=tmp_path / "page.png")
    first = page.locator(PICTURE).first.bounding_box()
    with Image.open(tmp_path / "page.png") as shot:
        box = (first["x"], first["y"], first["x"] + first["width"], first["y"] + first["height"])
        pixels = np.asarray(shot.convert("L").crop(tuple(map(round, box)))).astype(float)
    assert min(pixels.shape) > 150
    assert pixels.std() > 20  # noise of an untrained network, not a blank box


def test_images_follow_the_seed_and_the_other_fields(page):
    shown = {}
    for name, fields in {
        "seed 0": {"Seed": "0"},
        "seed 1": {"Seed": "1"},
        "seed 0 again": {"Seed": "0"},
    }.items():
        generate(page, **fields)
        shown[name] = sources(page)
    assert shown["seed 0"] == shown["seed 0 again"]
    assert all(a != b for a, b in zip(shown["seed 0"], shown["seed 1"], strict=True))
    page.get_by_label("planar").check()
    generate(page)
    assert all(a != b for a, b in zip(shown["seed 0"], sources(page), strict=True))
    page.get_by_label("Classes").click()
    page.get_by_role("option", name="7").click()
    page.keyboard.press("Escape")
    # The networks hardly know their classes yet, so that what is asked for tells more than what is shown.
    with page.expect_request(lambda request: "/queue/join" in request.url) as request:
        generate(page)
    assert request.value.post_data_json["data"] == ["planar", [1, 4, 20], "", ["7"], 16, "0", "auto"]


def test_mistakes_are_shown_in_place(page):
    generate(page, Seed="<b>one</b>")
    assert page.get_by_role("alert").inner_text() == (
        "Seed must be a whole number from 0 to 4294967295, got '<b>one</b>'"
    )
    assert "Traceback" not in page.content()
    generate(page, Seed="1", **{"Guidance w": "-1"})
    assert page.get_by_role("alert").inner_text() == "Guidance w must be a number from 0 to 16, got '-1'"
    page.get_by_label("2", exact=True).check()
    generate(page, **{"Guidance w": "2"})
    assert page.get_by_role("alert").count() == 0
    cards = page.locator(".kac-card")
    assert "NFE 4" in cards.nth(1).inner_text(), "auto takes the teacher where the student cannot be guided"
    assert "NFE 8" in cards.nth(2).inner_text()
    page.get_by_label("student", exact=True).check()
    generate(page)
    assert "has no student for 1 step (" in cards.nth(0).inner_text()
    assert "was distilled with w = 0.0 folded in" in cards.nth(1).inner_text()
    generate(page, **{"Guidance w": ""})
    assert "NFE 2" in cards.nth(1).inner_text()


def test_scrubber_goes_from_noise_to_image(page):
    generate(page)
    end, times = sources(page), page.locator(".kac-time")
    scrubber = page.locator("#scrubber input[type=range]")
    scrubber.fill("0")
    times.first.filter(has_text="t = 1.00").wait_for()
    noise = sources(page)
    assert len(set(noise)) == 1  # all choices start from the same noise
    assert not set(noise) & set(end)
    scrubber.fill("0.5")
    times.last.filter(has_text="t = 0.25").wait_for()  # the teacher's grid: (1 - 10/20)^2
    halfway = sources(page)
    assert halfway[2] not in (noise[2], end[2])
    scrubber.fill("1")
    times.last.filter(has_text="t = 0.00").wait_for()
    assert sources(page) == end
    scrubber.fill("0")
    times.last.filter(has_text="t = 1.00").wait_for()
    generate(page, Seed="5")
    times.last.filter(has_text="t = 0.00").wait_for()  # new images are shown as images
    assert scrubber.input_value() == "1"
