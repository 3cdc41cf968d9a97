"""The pages in a real browser, opened from disk. Skipped where there is no Chromium."""

import csv
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from shards.corpus.index import read_whole_index
from tests.runs import MakeRun
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
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else troubles.append(request.url),
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


def test_a_click_enlarges_a_clip_and_plays_its_part_of_the_source(page: Any, worked_run: Run) -> None:
    clip = page.locator("button.clip").first
    key = clip.get_attribute("data-key")
    row = next(row for row in read_whole_index(worked_run.corpus).to_pylist() if row["key"] == key)
    clip.click()
    page.wait_for_function("film.videoWidth > 0 && film.currentTime > 0.1")
    source = page.evaluate("decodeURIComponent(film.src)")
    assert source.startswith("file://")
    assert f"/{row['source']}#t={row['start_s']:.3f}," in source
    assert row["source"] in page.locator("#player-title").inner_text()
    page.click("#around")
    page.wait_for_function("film.src.endsWith(',' + '%.3f')" % (row["start_s"] + round(row["duration_s"], 2) + 5))
    page.keyboard.press("Escape")
    assert not page.locator("#player").is_visible()
    assert page.evaluate("film.paused")
    assert page.evaluate("document.activeElement.dataset.key") == key


def test_the_player_leads_to_the_next_clip_to_similar_ones_and_to_the_card(page: Any) -> None:
    page.locator("button.clip").first.click()
    title = page.locator("#player-title")
    first = title.inner_text()
    page.keyboard.press("ArrowRight")
    assert title.inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == first
    assert "xdc search" in page.locator("#similar").inner_text()
    page.locator("#similar button").first.click()
    assert title.inner_text() != first
    page.locator("#facts a[href^='#audio-']").click()
    assert not page.locator("#player").is_visible()
    assert page.evaluate("document.activeElement.id").startswith("audio-")


def test_all_clips_of_a_cluster_are_listed_and_saved_as_csv(page: Any, worked_run: Run) -> None:
    facts = page.locator(".card h3 span").first.inner_text()
    page.locator(".card .all a").first.click()
    page.wait_for_selector("#members-table td")
    name, cluster = page.locator("#members-title").inner_text().split(":")[0].split()
    rows = page.locator("#members-table tr").count() - 1
    assert rows == int(facts.split()[0])
    with page.expect_download() as saved:
        page.click("#members-csv")
    table = list(csv.DictReader(saved.value.path().open(encoding="utf-8", newline="")))
    assert saved.value.suggested_filename == f"{name}-{cluster}.csv"
    assert list(table[0]) == [
        "key", "source", "start_s", "duration_s", "distance", "label", "audio_cluster", "cluster_before"
    ]  # fmt: skip
    assert len(table) == rows
    page.fill("#members-filter", table[0]["key"])
    assert page.locator("#members-table tr").count() == 2
    page.locator("#members-table button").first.click()
    assert page.locator("#player").is_visible()


def test_clips_that_changed_cluster_are_listed(page: Any) -> None:
    link = page.locator("a[href^='#moved/']").first
    count = int(link.inner_text())
    link.click()
    page.wait_for_selector("#members-table td")
    assert page.locator("#members-table tr").count() - 1 == count
    assert all("changed" in text for text in page.locator("#members-table td:last-child").all_inner_texts())


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(page: Any, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("button.clip").first.click()
    assert page.locator("#player").bounding_box()["width"] <= width


def test_without_the_source_the_pictures_are_shown_in_step_with_the_sound(browser: Any, copy_run: MakeRun) -> None:
    run = copy_run()
    path = run.directory(Node("report", None, 1)).resolve() / "report.html"
    path.write_text(
        re.sub(r'"root":"file:[^"]*"', '"root":"file:///no/such/folder/"', path.read_text("utf-8")), "utf-8"
    )
    page = browser.new_page()
    page.goto(path.as_uri())
    page.evaluate(
        """() => { window.played = []; const play = HTMLMediaElement.prototype.play;
        HTMLMediaElement.prototype.play = function () { window.played.push(this); return play.call(this) } }"""
    )
    page.locator("button.clip").first.click()
    page.wait_for_function("played.some((each) => each.src.endsWith('.ogg') && each.currentTime > 0.1)")
    assert page.evaluate("played.at(-1).duration") == pytest.approx(1.125, abs=0.05)
    assert not page.locator("#film").is_visible()
    assert page.locator("#strip-picture").is_visible()
    assert "eight pictures in step" in page.locator("#player-note").inner_text()
    page.keyboard.press("Escape")
    assert page.evaluate("played.at(-1).paused")
    page.close()


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
    page.wait_for_selector("#player[open]")
    page.keyboard.press("Escape")
    assert page.locator("#player[open]").count() == 0


def test_the_overview_leads_to_the_rounds(browser: Any, worked_run: Run) -> None:
    page = browser.new_page()
    page.goto((worked_run.root.resolve() / "overview.html").as_uri())
    page.get_by_role("link", name="The newest round").click()
    page.wait_for_selector(".card")
    page.get_by_role("link", name="all rounds").click()
    page.wait_for_url("**/overview.html")
    page.close()
