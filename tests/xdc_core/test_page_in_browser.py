"""The pages in a real browser, opened from disk. Skipped where there is no Chromium."""

import csv
import json
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


def test_of_two_lists_that_are_asked_for_at_once_the_last_one_is_shown(page: Any) -> None:
    links = page.locator(".card .all a").evaluate_all(
        """(links) => { links[0].click(); links[1].click();
        return links.map((link) => link.getAttribute('href')) }"""
    )
    page.wait_for_selector("#members-table td")
    page.wait_for_function("document.querySelectorAll('head script').length === 0")
    name, cluster = links[1].removeprefix("#all/").rsplit("-", 1)
    assert page.locator("#members-title").inner_text() == f"{name} {cluster}: all clips"
    size = int(page.locator(".card h3 span").nth(1).inner_text().split()[0])
    assert page.locator("#members-table tr").count() == size + 1
    page.locator("#members-table button").first.click()
    assert page.locator(f"#facts a[href='{links[1].replace('all/', '')}']").count() == 1


def test_a_click_beside_a_dialog_closes_it_and_one_in_its_padding_does_not(page: Any) -> None:
    page.locator("button.clip").first.click()
    box = page.locator("#player").bounding_box()
    page.mouse.click(box["x"] + 4, box["y"] + 4)
    assert page.locator("#player").is_visible()
    page.mouse.click(box["x"] - 4, box["y"] + 4)
    assert not page.locator("#player").is_visible()


def test_the_arrow_keys_work_after_the_last_clip_was_reached_with_the_button(page: Any) -> None:
    page.locator("button.clip").first.click()
    of = page.locator(".card").first.locator("button.clip").count()
    for _ in range(of):
        page.click("#next", force=True)
    last = page.locator("#player-title").inner_text()
    assert page.locator("#next").get_attribute("aria-disabled") == "true"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#player-title").inner_text() != last
    assert page.locator("#next").get_attribute("aria-disabled") == "false"


def test_the_search_command_names_the_run_where_the_page_is(page: Any, worked_run: Run) -> None:
    page.locator("button.clip").first.click()
    assert f"xdc search {worked_run.root.resolve()} --round 1 " in page.locator("#similar").inner_text()


def test_an_address_that_cannot_be_decoded_leads_nowhere(browser: Any, worked_run: Run) -> None:
    page, troubles = browser.new_page(), []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto((worked_run.directory(Node("report", None, 1)).resolve() / "report.html").as_uri() + "#100%")
    assert page.locator(".card").count() == 4
    assert troubles == []
    page.close()


@pytest.fixture(scope="module")
def odd(browser: Any, worked_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[str]]]:
    """A copy of the page of round 1 that knows no sources and no round before, and the keys of the examples of video 0.

    Of these the first has no sound and the second no media. The label of the clips of video 0 begins like a formula,
    and the list of video 1 is cut off.
    """
    folder = tmp_path_factory.mktemp("odd") / "report"
    shutil.copytree(worked_run.directory(Node("report", None, 1)), folder)
    text = (folder / "report.html").read_text("utf-8")
    data = re.findall(r'id="gallery-data">(.+?)</script>', text, re.DOTALL)[0]
    gallery = json.loads(data)
    keys = gallery["sources"]["video"][0]["examples"]
    gallery |= {"root": "", "usual": {}}
    gallery["media"][keys[1]] = "the corpus has no media of it"
    (folder / "report.html").write_text(text.replace(data, json.dumps(gallery)), "utf-8")
    (folder / "media" / f"{keys[0]}.ogg").unlink()
    lists = [folder / "clusters" / f"video-{cluster}.js" for cluster in range(2)]
    label = gallery["clips"]["rows"][keys[0]][3]
    lists[0].write_text(lists[0].read_text("utf-8").replace(json.dumps(label), '"=1+1"'), "utf-8")
    lists[1].write_bytes(lists[1].read_bytes()[:-20])
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    page.select_option("#order", "number")
    yield page, keys
    page.close()


def test_a_clip_without_sound_is_shown_in_its_time(odd: tuple[Any, list[str]]) -> None:
    page, keys = odd
    page.locator(f"button.clip[data-key='{keys[0]}']").first.click()
    page.wait_for_function("document.getElementById('player-note').textContent === 'The clip has no sound.'")
    page.wait_for_function("parseFloat(document.querySelector('#strip-sound i').style.left) > 20")
    assert not page.evaluate("document.getElementById('strip-picture').style.backgroundPosition").startswith("0%")
    page.keyboard.press("Escape")


def test_a_clip_without_media_is_described(odd: tuple[Any, list[str]]) -> None:
    page, keys = odd
    page.locator(f"button.clip[data-key='{keys[1]}']").first.click()
    note = page.locator("#player-note").inner_text()
    assert note.startswith("The page does not know where the source is, and")
    assert "the corpus has no media of it" in note
    assert keys[1] in page.locator("#facts").inner_text()
    page.keyboard.press("Escape")


def test_saved_labels_are_no_formulas_and_nothing_is_told_of_a_round_that_is_not_there(
    odd: tuple[Any, list[str]],
) -> None:
    page, _ = odd
    page.locator("a[href='#all/video-0']").click()
    page.wait_for_selector("#members-table td")
    assert "in round 0" not in page.locator("#members-table").inner_text()
    with page.expect_download() as saved:
        page.click("#members-csv")
    table = list(csv.DictReader(saved.value.path().open(encoding="utf-8", newline="")))
    assert "'=1+1" in {row["label"] for row in table}
    assert "cluster_before" not in table[0]
    page.keyboard.press("Escape")


def test_a_list_that_is_cut_off_is_told(odd: tuple[Any, list[str]]) -> None:
    page, _ = odd
    page.locator("a[href='#all/video-1']").click()
    page.wait_for_function("document.getElementById('members-note').textContent.includes('is not a complete list')")
    page.keyboard.press("Escape")


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
    path.write_text(re.sub(r'"root":"[^"]*"', '"root":"no/such/folder/"', path.read_text("utf-8")), "utf-8")
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
