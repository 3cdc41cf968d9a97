"""The pages in a real browser, opened from disk. Skipped where there is no Chromium."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine (apt install chromium)")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `dev` has it)")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, worked_run: Run) -> Iterator[Any]:
    """The page of round 1, opened from disk. Fails where it asks a network for something, or logs an error."""
    page, troubles = browser.new_page(), []
    page.on("console", lambda said: troubles.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    # What is loaded no more, because its card is gone, is no failure.
    page.on(
        "requestfailed",
        lambda request: None if request.failure == "net::ERR_ABORTED" else troubles.append(request.url),
    )
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else troubles.append(request.url)
    )
    page.goto((worked_run.directory(Node("report", None, 1)).resolve() / "report.html").as_uri())
    yield page
    assert troubles == []
    page.close()


def test_the_page_opens_with_a_card_for_every_cluster(page: Any) -> None:
    assert "round 1" in page.title()
    assert page.locator(".card").count() == 4
    page.select_option("#source", "audio")
    assert page.locator(".card h3").first.text_content().startswith("audio ")


def test_pictures_are_loaded_when_they_are_seen_and_show_something(page: Any) -> None:
    picture = page.locator(".clip .picture").first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.clip .picture').style.backgroundImage.includes('.webp')")
    loaded = page.evaluate(
        """async () => { const image = new Image(); const clip = document.querySelector('button.clip');
        image.src = 'media/' + clip.dataset.key + '.webp'; await image.decode(); return [image.width, image.height] }"""
    )
    assert loaded == [576, 112]


def test_a_click_plays_the_sound_and_another_stops_it(page: Any) -> None:
    page.evaluate(
        """() => { window.played = []; const play = HTMLMediaElement.prototype.play;
        HTMLMediaElement.prototype.play = function () { window.played.push(this); return play.call(this) } }"""
    )
    clip = page.locator("button.clip").first
    clip.click()
    page.wait_for_function("window.played.length === 1 && window.played[0].currentTime > 0.1")
    assert page.evaluate("window.played[0].duration") == pytest.approx(1.125, abs=0.05)
    assert page.evaluate("window.played[0].src").endswith(".ogg")
    clip.click()
    assert page.evaluate("window.played[0].paused")
    assert page.locator(".clip.playing").count() == 0


def test_cards_are_sorted_and_filtered(page: Any) -> None:
    def sizes() -> list[int]:
        return [int(text.split()[0]) for text in page.locator(".card h3 span").all_text_contents()]

    page.select_option("#order", "largest")
    assert sizes() == sorted(sizes(), reverse=True)
    page.select_option("#order", "smallest")
    assert sizes() == sorted(sizes())
    page.fill("#filter", "2")
    shown = page.locator(".card").all_text_contents()
    assert shown
    assert all("2" in text for text in shown)
    page.fill("#filter", "no such label")
    assert page.locator(".card").count() == 0
    assert page.locator("#status").inner_text() == "0 of 4 clusters"


def test_a_clip_is_found_by_the_name_of_its_source_and_leads_to_its_cluster(page: Any, worked_run: Run) -> None:
    page.keyboard.press("/")
    page.keyboard.type("000003")
    rows = page.locator("#found tr")
    assert rows.count() >= 2
    link = page.locator("#found a").nth(1)  # The audio cluster of the first clip.
    cluster = link.inner_text()
    link.click()
    assert page.locator("#source").input_value() == "audio"
    assert page.evaluate("document.activeElement.id") == f"audio-{cluster}"


def test_clips_can_be_reached_with_the_keyboard(page: Any) -> None:
    clips = page.locator("button.clip")
    clips.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.key") == clips.nth(1).get_attribute("data-key")
    page.keyboard.press("Enter")
    page.wait_for_selector(".clip.playing")
    page.keyboard.press("Escape")
    assert page.locator(".clip.playing").count() == 0


def test_the_overview_leads_to_the_rounds(browser: Any, worked_run: Run) -> None:
    page = browser.new_page()
    page.goto((worked_run.root.resolve() / "overview.html").as_uri())
    page.get_by_role("link", name="The newest round").click()
    page.wait_for_selector(".card")
    page.get_by_role("link", name="all rounds").click()
    page.wait_for_url("**/overview.html")
    page.close()
