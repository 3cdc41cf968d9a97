"""The words of a sentence of GRID with their times, from its align file."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from shards.reject import Reject

UNITS = 25_000  # Of an align file in a second.
LENGTH = 3 * UNITS  # Of every recording: 75 frames at 25 frames per second.
FRAME = UNITS // 25
SILENCES = ("sil", "sp")
# The words by position in the sentence, each after its letter in the names of files: bbaf2n is bin blue at f two now.
POSITIONS: Mapping[str, Mapping[str, str]] = {
    "command": {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    "colour": {"b": "blue", "g": "green", "r": "red", "w": "white"},
    "preposition": {"a": "at", "b": "by", "i": "in", "w": "with"},
    "letter": {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    "digit": dict(zip("z123456789", "zero one two three four five six seven eight nine".split(), strict=True)),  # noqa: SIM905
    "adverb": {"a": "again", "n": "now", "p": "please", "s": "soon"},
}
POSITION_OF = {word: position for position, words in POSITIONS.items() for word in words.values()}
_NAME = re.compile("".join(f"([{''.join(words)}])" for words in POSITIONS.values()))


def read_words(
    root: Path, align: str, recording: str, stem: str
) -> Iterator[tuple[float, float, dict[str, str]] | Reject]:
    """Yield start and end in seconds and the labels of every word in an align file, or why it cannot be used.

    root: of the paths `align` and `recording`. stem: the recording's name without suffix, in small letters. A line that
    cannot be used is one reject: the word that it lacks is not missed once more.
    """

    def reject(reason: str) -> Reject:
        return Reject(recording, "list", "bad_row", f"{align}: {reason}")

    try:
        lines = (root / align).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        yield Reject(recording, "list", "unreadable", f"{align} cannot be read: {error.strerror}")
        return
    except UnicodeDecodeError:
        yield reject("it is not a text file")
        return
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    last = max((int(row[1]) for _, row in rows if len(row) > 1 and row[1].isdecimal()), default=0)
    if last < LENGTH / 2:
        yield reject(
            f"its last time is {last}. Times are in 1/{UNITS} s, and a recording lasts 3 s, which is {LENGTH}: it is "
            "cut off, or in another unit"
        )
        return
    named = _NAME.fullmatch(stem)
    expected = {
        position: words[code] for (position, words), code in zip(POSITIONS.items(), named.groups(), strict=True)
    } if named else {}  # fmt: skip
    missing = dict.fromkeys(POSITIONS)
    unknown = 0  # Lines whose position in the sentence is not known.
    for number, row in rows:
        if len(row) != 3 or not (row[0].isdecimal() and row[1].isdecimal()) or int(row[0]) >= int(row[1]):
            yield reject(f"line {number}: {' '.join(row)[:80]!r} is not of the form start end word")
            position = next((POSITION_OF[cell.lower()] for cell in row if cell.lower() in POSITION_OF), None)
            missing.pop(position or "", None)
            unknown += position is None and row[-1].lower() not in SILENCES
            continue
        start, end, word = int(row[0]), int(row[1]), row[2].lower()
        if word in SILENCES:
            continue
        position = POSITION_OF.get(word)
        if position is None:
            yield reject(f"line {number}: {word[:80]!r} is no word of GRID")
            unknown += 1
        elif position not in missing:
            yield reject(f"line {number}: {word!r} is a second {position}")
        elif expected.get(position, word) != word:
            yield reject(f"line {number}: {word!r}, but the file's name says {expected[position]!r}")
        elif end > LENGTH + FRAME:
            reason = f"{align}: line {number}: {word!r} ends at {end / UNITS:.2f} s, but a recording lasts 3 s"
            yield Reject(recording, "list", "outside", reason, "", start / UNITS, end / UNITS)
        else:
            label = f"letter_{word}" if position == "letter" else word
            yield start / UNITS, end / UNITS, {"label": label, "label_position": position}
        missing.pop(position or "", None)
    if len(missing) > unknown:
        yield reject(f"it has no {', no '.join(missing)}")
