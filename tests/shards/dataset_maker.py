"""Makes tiny replicas of data sets in their official layouts, of real media bytes."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from shards.datasets.dataset import Dataset
from tests.shards.media_maker import plain, tone, write_video

CODECS = {".wav": "pcm_s16le", ".flac": "flac", ".ogg": "libopus", ".mp3": "libmp3lame"}


@cache
def sample(suffix: str) -> bytes:
    """A file of one second: a picture without sound, or for the suffixes of sound a tone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        if suffix in CODECS:
            write_video(
                path,
                [],
                tone(500, 1.0, 8000 if suffix == ".wav" else 48000),
                audio_codec=CODECS[suffix],
                sample_rate=8000 if suffix == ".wav" else 48000,
            )
        else:
            codec = "mpeg4" if suffix == ".avi" else "libx264"
            write_video(path, [plain((10 * n, 80, 40)) for n in range(25)], None, video_codec=codec)
        return path.read_bytes()


def put(root: Path, *names: str) -> None:
    """Write media files of these names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample(path.suffix.lower()))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


UCF_CLASSES = ("Archery", "HandstandPushups", "YoYo")


def ucf_video(label: str, group: int) -> str:
    """As in the data set: the files of one class are spelt otherwise than their folder."""
    return f"{label}/v_{label.replace('Handstand', 'HandStand')}_g{group:02d}_c01.avi"


def make_ucf101(root: Path, videos: str = "UCF-101", lists: str = "ucfTrainTestlist") -> None:
    """Three classes of three videos; split n tests the n-th of every class."""
    put(root / videos, *(ucf_video(label, group) for label in UCF_CLASSES for group in (1, 2, 3)))
    write_lines(root / lists / "classInd.txt", (f"{n} {label}" for n, label in enumerate(UCF_CLASSES, start=1)))
    for split in (1, 2, 3):
        train = [
            f"{ucf_video(label, group)} {n}"
            for n, label in enumerate(UCF_CLASSES, start=1)
            for group in (1, 2, 3)
            if group != split
        ]
        write_lines(root / lists / f"trainlist0{split}.txt", train)
        write_lines(root / lists / f"testlist0{split}.txt", (ucf_video(label, split) for label in UCF_CLASSES))


def make_hmdb51(root: Path, videos: str = "", lists: str = "testTrainMulti_7030_splits") -> None:
    """Two classes of four videos; in split n the n-th is for test and the fourth is not used."""
    for label in ("brush_hair", "wave"):
        names = [f"(Rad)Mother!_{label}_f_cm_np1_ba_med_{n}.avi" for n in range(1, 5)]
        put(root / videos, *(f"{label}/{name}" for name in names))
        for split in (1, 2, 3):
            codes = [2 if n == split else 0 if n == 4 else 1 for n in range(1, 5)]
            lines = (f"{name} {code} " for name, code in zip(names, codes, strict=True))
            write_lines(root / lists / f"{label}_test_split{split}.txt", lines)


def make_esc50(root: Path) -> None:
    """The layout of the repository: three classes, two of them of ESC-10, one recording a fold."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for target, (category, esc10) in enumerate([("dog", True), ("chirping_birds", False), ("rain", True)]):
        for fold in range(1, 6):
            name = f"{fold}-{100 + fold}-A-{target}.wav"
            put(root / "audio", name)
            lines.append(f"{name},{fold},{target},{category},{esc10},{100 + fold},A")
    write_lines(root / "meta/esc50.csv", lines)


def make_esc_folders(root: Path) -> None:
    """The older layout: two classes, one recording a fold."""
    for folder in ("001 - Dog bark", "002 - Rain"):
        put(root / folder, *(f"{fold}-{100 + fold}-A.ogg" for fold in range(1, 6)))


def make_scenes(folder: Path, prefix: str = "") -> None:
    """Two classes of acoustic scenes, six recordings each."""
    put(folder, *(f"{prefix}{label}{n:02d}.wav" for label in ("bus", "busystreet") for n in (1, 3, 4, 6, 8, 11)))


def roles_of(dataset: Dataset) -> dict[str, Counter[str]]:
    """How many files have which role, by split."""
    return {split.name: Counter(split.roles.values()) for split in dataset.splits}


def reasons_of(dataset: Dataset) -> dict[str, str]:
    assert {reject.step for reject in dataset.rejects} <= {"list"}
    return {reject.source: reject.reason for reject in dataset.rejects}


def labels_of(dataset: Dataset) -> dict[str, str]:
    return {source.path: source.labels["label"] for source in dataset.sources}
