"""Make the pictures of README.md: `xdc run` in a terminal, a round's tasks in Prefect, and the page of its clusters.

    PYTHONPATH=. python docs/pictures/make.py FOLDER [--clips 3000] [--rounds 8]

makes audio-visual digits and a run of them in FOLDER, under a Prefect server of its own, and writes beside this file

    tour.gif       the three commands in a pseudo-terminal, their waiting shortened
    prefect.webp   the last round with a training in Prefect's graph
    clusters.webp  the clusters of the last round in its report

FOLDER may have the run already: then `xdc run` has nothing to do, and `--only clusters` or `--only prefect` makes that
picture again. Needs the extra `dev` and Chromium.
"""

import argparse
import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import pyte
from PIL import Image, ImageDraw, ImageFont

from tests.flows.prefect_server import PrefectServer

HERE = Path(__file__).parent
COLUMNS, ROWS = 104, 26
FONT_SIZE, LINE, MARGIN = 13, 17, 10
# Of the terminal's colours, those that the command uses.
COLOURS = {"default": "#d8dee9", "red": "#bf616a", "green": "#a3be8c", "brown": "#ebcb8b", "blue": "#81a1c1"}
COLOURS |= {"magenta": "#b48ead", "cyan": "#88c0d0", "brightblack": "#6c7a96"}
BACKGROUND = "#242933"
Screens = list[tuple[float, list[list[tuple[str, str]]]]]


def recorded(words: list[str], folder: Path, environment: dict[str, str], take: Callable[[bytes], None]) -> None:
    """Run a command in a pseudo-terminal and hand on what it prints; ends with its error if it has one."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(words[0], words, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    while True:
        select.select([terminal], [], [])
        try:
            printed = os.read(terminal, 65536)
        except OSError:  # Linux says EIO when the other end is closed.
            break
        take(printed)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        raise SystemExit(f"{' '.join(words)} ended with {code}")


def shown(screen: pyte.Screen) -> list[list[tuple[str, str]]]:
    """Return the lines of the screen, each a list of (text of one colour, colour)."""
    lines = []
    for row in range(screen.lines):
        parts: list[tuple[str, str]] = []
        for column in range(screen.columns):
            cell = screen.buffer[row][column]
            colour = COLOURS.get(cell.fg, f"#{cell.fg}" if len(cell.fg) == 6 else COLOURS["default"])
            if parts and parts[-1][1] == colour:
                parts[-1] = (parts[-1][0] + cell.data, colour)
            else:
                parts.append((cell.data, colour))
        lines.append(parts)
    return lines


def tour(folder: Path, environment: dict[str, str], clips: int, rounds: int) -> Screens:
    """Run the three commands of a run of digits; return the screens, and for how long each was shown, in seconds."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    screens: Screens = []
    since = time.monotonic()

    def take(printed: bytes) -> None:
        nonlocal since
        # Paths of this machine tell a reader nothing.
        stream.feed(printed.replace(f"{folder}/".encode(), b""))
        now = shown(screen)
        if not screens or now != screens[-1][1]:
            if screens:
                screens[-1] = (time.monotonic() - since, screens[-1][1])
            screens.append((0.0, now))
            since = time.monotonic()

    for command in (
        f"xdc digits media/digits --clips {clips}",
        f"xdc init runs/digits --videos media/digits/manifest.csv --preset digits --rounds {rounds} --keep",
        "xdc run runs/digits",
    ):
        take(f"\x1b[32m$\x1b[0m {command}\r\n".encode())
        words = [sys.executable, "-P", "-m", "flows.cli", *command.split()[1:]]
        recorded(words, folder, environment, take)
    screens[-1] = (time.monotonic() - since, screens[-1][1])
    return screens


def picture(lines: list[list[tuple[str, str]]], font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw a screen."""
    wide = font.getlength("m")
    image = Image.new("RGB", (round(COLUMNS * wide) + 2 * MARGIN, ROWS * LINE + 2 * MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for row, parts in enumerate(lines):
        column = 0
        for text, colour in parts:
            draw.text((MARGIN + column * wide, MARGIN + row * LINE), text, fill=colour, font=font)
            column += len(text)
    return image


def write_tour(screens: Screens, out: Path, frames: int = 60, seconds: float = 24.0) -> None:
    """Write at most so many screens, evenly over the time that they took; the last one stays for five seconds more."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"), FONT_SIZE)
    every = sum(length for length, _ in screens) / frames
    kept, waited = [], every
    for length, lines in screens:
        waited += length
        if waited >= every:
            kept.append(lines)
            waited = 0.0
    if kept[-1] != screens[-1][1]:
        kept.append(screens[-1][1])
    # Few colours, the same in all pictures: only what changed between them is stored.
    coloured = max(kept, key=lambda lines: len({colour for parts in lines for _, colour in parts}))
    palette = picture(coloured, font).quantize(16)
    pictures = [picture(lines, font).quantize(palette=palette, dither=Image.Dither.NONE) for lines in kept]
    length = round(1000 * seconds / len(pictures))
    pictures[0].save(
        out,
        save_all=True,
        append_images=pictures[1:],
        duration=[length] * (len(pictures) - 1) + [5000],
        loop=0,
        optimize=False,
    )


@contextmanager
def browser_page(width: int, height: int) -> Iterator[Any]:
    """Yield a page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"),
            # Prefect draws its graph with WebGL, here without a GPU.
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
        )
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


def write_picture(png: Path, out: Path) -> None:
    """Store a screenshot as WebP."""
    Image.open(png).convert("RGB").save(out, quality=80, method=6)
    png.unlink()


def write_clusters(run: Path, out: Path) -> None:
    """Take a picture of the clusters in the report of the last round."""
    page = max(run.glob("rounds/*/report/report.html"))
    with browser_page(1280, 900) as tab:
        tab.goto(page.resolve().as_uri())
        tab.evaluate("document.querySelector('#clusters').scrollIntoView()")
        tab.wait_for_timeout(3000)
        tab.screenshot(path=str(out.with_suffix(".png")))
    write_picture(out.with_suffix(".png"), out)


def last_training_round(server: PrefectServer) -> str:
    """Return the id of the newest flow run of `xdc-round` but one: the last round trains nothing."""
    wanted = {"flows": {"name": {"any_": ["xdc-round"]}}, "sort": "START_TIME_DESC"}
    newest = server.ask("/flow_runs/filter", wanted)
    return str(newest[min(1, len(newest) - 1)]["id"])


def write_tasks(server: PrefectServer, out: Path) -> None:
    """Take a picture of a round's tasks in Prefect's graph."""
    with browser_page(1280, 900) as tab:
        tab.goto(f"http://127.0.0.1:{server.port}/runs/flow-run/{last_training_round(server)}")
        tab.get_by_text("Task Runs", exact=True).wait_for(timeout=120_000)
        tab.wait_for_timeout(15_000)
        tab.screenshot(path=str(out.with_suffix(".png")), clip={"x": 256, "y": 0, "width": 1024, "height": 505})
    write_picture(out.with_suffix(".png"), out)


def main() -> None:
    """Make the pictures that were asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--clips", type=int, default=3000)
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--only", choices=["clusters", "prefect"], help="of a run that is there")
    arguments = options.parse_args()
    folder: Path = arguments.folder.resolve()
    if arguments.only != "clusters":
        (folder / "prefect").mkdir(parents=True, exist_ok=True)
        server = PrefectServer(folder / "prefect")  # Its database keeps the flow runs of an earlier call.
        try:
            server.start_server()
            if not arguments.only:
                environment = server.environment | {"TERM": "xterm-256color", "PYTHONPATH": str(HERE.parents[1])}
                environment |= {"COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
                screens = tour(folder, environment, arguments.clips, arguments.rounds)
                write_tour(screens, HERE / "tour.gif")
            write_tasks(server, HERE / "prefect.webp")
        finally:
            server.end()
    if arguments.only != "prefect":
        write_clusters(folder / "runs" / "digits", HERE / "clusters.webp")
    subprocess.run(["ls", "-l", *sorted(str(path) for path in HERE.glob("*.[gw]*"))], check=True)


if __name__ == "__main__":
    main()
