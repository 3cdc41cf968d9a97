"""The GRID corpus as it is published becomes words with their times, or whole recordings."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shards.corpus.index import label_columns, read_whole_index
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.errors import ConfigError
from shards.layouts.registry import read_dataset
from shards.settings import CorpusSettings
from shards.sources.source import Source
from shards.sources.window import window_of
from tests.places import DATA, needs
from tests.shards.grid_maker import ALIGN, align_of, put_align, put_recordings, sentences

GRID = DATA / "grid"


def settings(**changes: object) -> CorpusSettings:
    values = {"layout": "grid", "clip_seconds": 0.64, "min_seconds": 0.64, "fps": 25, "short_side": 32, "workers": 2}
    return CorpusSettings.model_validate(values | changes)


def reasons(root: Path, layout: str = "grid") -> list[tuple[str, str]]:
    return [(reject.kind, reject.reason) for reject in read_dataset(layout, root).rejects]


@pytest.mark.parametrize(
    ("video", "align"),
    [
        ("s1/bbaf2n.mpg", "alignments/s1/bbaf2n.align"),
        ("s1/bbaf2n.mpg", "s1/align/bbaf2n.align"),
        ("s1/video/mpg_6000/bbaf2n.mpg", "align/s1/bbaf2n.align"),
        ("s1_processed/bbaf2n.mpg", "s1_processed/align/bbaf2n.align"),
        ("S01/BBAF2N.MPG", "align/bbaf2n.align"),
    ],
)
def test_words_have_the_times_and_labels_of_the_align_file(tmp_path: Path, video: str, align: str) -> None:
    put_recordings(tmp_path, video)
    put_align(tmp_path, align, ALIGN)
    dataset = read_dataset("grid", tmp_path)
    assert dataset.rejects == ()
    assert [(source.start_s, source.end_s, source.labels["label"]) for source in dataset.sources] == [
        (0.95, 1.18, "bin"),
        (1.18, 1.36, "blue"),
        (1.36, 1.42, "at"),
        (1.42, 1.64, "letter_f"),
        (1.64, 1.89, "two"),
        (1.89, 2.12, "now"),
    ]
    assert {source.path for source in dataset.sources} == {video}
    assert {source.labels["label_talker"] for source in dataset.sources} == {"s1"}
    positions = [source.labels["label_position"] for source in dataset.sources]
    assert positions == ["command", "colour", "preposition", "letter", "digit", "adverb"]


def test_a_folder_of_one_talker_is_named_by_itself_or_not_at_all(tmp_path: Path) -> None:
    for name, labels in (("s7", {"label_talker": "s7"}), ("some", {})):
        put_recordings(tmp_path / name, "bbaf2n.mpg")
        put_align(tmp_path / name, "bbaf2n.align", ALIGN)
        (first, *_) = read_dataset("grid", tmp_path / name).sources
        assert first.labels == {"label": "bin", "label_position": "command", **labels}


def test_the_roots_own_name_means_no_talker_if_a_folder_in_it_does(tmp_path: Path) -> None:
    root = tmp_path / "s9"
    put_recordings(root, "s1/bbaf2n.mpg", "bbaf3s.mpg")
    put_align(root, "alignments/s1/bbaf2n.align")
    dataset = read_dataset("grid", root)
    assert {(source.path, source.labels["label_talker"]) for source in dataset.sources} == {("s1/bbaf2n.mpg", "s1")}
    assert reasons(root) == [("unlisted", "it is in no folder of a talker such as s1")]


def test_windows_of_one_length_lie_round_the_middle_of_each_word(tmp_path: Path) -> None:
    put_recordings(tmp_path / "grid", "s1/bbaf2n.mpg")
    put_align(tmp_path / "grid", "alignments/s1/bbaf2n.align", ALIGN)
    asked = settings(segment_seconds=0.64)
    record = shard(tmp_path / "corpus", tmp_path / "grid", asked)
    assert (record.rows, record.rejects) == (6, 0)
    index = sorted(read_whole_index(tmp_path / "corpus").to_pylist(), key=lambda row: row["start_s"])
    # The first words of data/grid/words.csv, which was made of the same align file.
    assert [(row["label"], row["start_s"], row["frames"]) for row in index] == [
        ("bin", 0.76, 16),
        ("blue", 0.96, 16),
        ("at", 1.08, 16),
        ("letter_f", 1.2, 16),
        ("two", 1.44, 16),
        ("now", 1.68, 16),
    ]
    assert label_columns(tmp_path / "corpus") == ["label", "label_position", "label_talker"]
    assert corpus_fingerprint_now(tmp_path / "corpus", tmp_path / "grid", asked) == (record.fingerprint, "")
    assert shard(tmp_path / "corpus", tmp_path / "grid", asked).reused


def test_without_a_window_a_word_is_cut_as_long_as_it_is(tmp_path: Path) -> None:
    put_recordings(tmp_path / "grid", "s1/bbaf2n.mpg")
    put_align(tmp_path / "grid", "alignments/s1/bbaf2n.align", ALIGN)
    record = shard(tmp_path / "corpus", tmp_path / "grid", settings(min_seconds=0.1, clip_seconds=1.0))
    lengths = {row["label"]: row["frames"] for row in read_whole_index(tmp_path / "corpus").to_pylist()}
    assert lengths == {"bin": 6, "blue": 5, "letter_f": 5, "two": 6, "now": 6}
    (reject,) = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert (record.rejects, reject["kind"], reject["reason"]) == (
        1,
        "too_short",
        "the video is 0.06 s long, shorter than min_seconds (0.1)",
    )


def test_a_window_stays_inside_its_file() -> None:
    def window(start_s: float | None, end_s: float | None) -> tuple[float | None, float | None]:
        made = window_of(Source("a", start_s, end_s), 0.64, 25, 3.0, 0.1)
        return made.start_s, made.end_s and round(made.end_s, 6)

    assert window(0.0, 0.2) == (0.0, 0.64)
    assert window(2.8, 3.05) == (2.36, 3.0)
    assert window(2.8, 3.2) == (2.8, 3.2)  # The part itself is not in the file.
    assert window(1.0, None) == (1.0, None)
    assert window(None, 1.04) == (0.2, 0.84)
    assert window(None, None) == (None, None)


def test_a_part_that_is_one_window_long_is_its_own_window_if_it_begins_with_a_frame() -> None:
    for frame in range(60):
        start_s, end_s = frame / 25, round(frame / 25 + 0.64, 3)
        made = window_of(Source("a", start_s, end_s), 0.64, 25, 3.0, 0.1)
        assert made.start_s == start_s
        assert made.end_s == pytest.approx(end_s, abs=1e-9)


def test_words_after_the_end_of_a_recording_are_rejects(tmp_path: Path) -> None:
    put_recordings(tmp_path / "grid", "s1/bbaf2n.mpg", seconds=2.0)
    put_recordings(tmp_path / "grid", "s1/lrbg3s.mpg")
    put_align(tmp_path / "grid", "alignments/s1/bbaf2n.align", ALIGN)
    late = (0, 14500, 21000, 27750, 33000, 40500, 70000, 80000, 90000)
    put_align(tmp_path / "grid", "alignments/s1/lrbg3s.align", align_of("lrbg3s", late))
    record = shard(tmp_path / "corpus", tmp_path / "grid", settings(segment_seconds=0.64))
    rejects = pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist()
    assert (record.rows, sorted((row["step"], row["kind"], row["reason"]) for row in rejects)) == (
        10,
        [
            (
                "list",
                "outside",
                "alignments/s1/lrbg3s.align: line 7: 'soon' ends at 3.20 s, but a recording lasts 3 s",
            ),
            (
                "plan",
                "outside",
                "the part ends at 2.12 s, but the video at 2.01 s: there is no window of segment_seconds round it",
            ),
        ],
    )


def test_what_an_align_file_lacks_or_says_wrong_is_a_reject_with_its_line(tmp_path: Path) -> None:
    put_recordings(tmp_path, *(f"s1/{name}.mpg" for name in ("bbaf2n", "bbaf3s", "bbaf4p", "bbaf5a", "bbal6n")))
    put_align(tmp_path, "alignments/s1/bbaf2n.align", ALIGN.replace("41000 47250 two", "41000 two"))
    put_align(tmp_path, "alignments/s1/bbaf3s.align", align_of("bbaf3s").replace("blue", "red"))
    put_align(tmp_path, "alignments/s1/bbaf4p.align", align_of("bbaf4p").replace("please", "hello"))
    put_align(tmp_path, "alignments/s1/bbaf5a.align", "0 290 sil\n290 800 bin\n800 2980 sil\n")
    put_recordings(tmp_path, "s1/brwx7p.mpg", "s1/lrbg3s.mpg")
    put_align(tmp_path, "alignments/s1/brwx7p.align", "".join(align_of("brwx7p").splitlines(keepends=True)[:-3]))
    put_align(tmp_path, "alignments/s1/lrbg3s.align", align_of("lrbg3s").replace("red", "- - -"))
    assert reasons(tmp_path) == [
        ("bad_row", "alignments/s1/bbaf2n.align: line 6: '41000 two' is not of the form start end word"),
        ("bad_row", "alignments/s1/bbaf3s.align: line 3: 'red', but the file's name says 'blue'"),
        ("bad_row", "alignments/s1/bbaf4p.align: line 7: 'hello' is no word of GRID"),
        (
            "bad_row",
            "alignments/s1/bbaf5a.align: its last time is 2980. Times are in 1/25000 s, and a recording lasts 3 s, "
            "which is 75000: it is cut off, or in another unit",
        ),
        ("missing", "there is no align file of it"),
        ("bad_row", "alignments/s1/brwx7p.align: it has no digit, no adverb"),
        ("bad_row", "alignments/s1/lrbg3s.align: line 3: '21000 27750 - - -' is not of the form start end word"),
    ]
    assert Counter(source.path for source in read_dataset("grid", tmp_path).sources) == {
        "s1/bbaf2n.mpg": 5,
        "s1/bbaf3s.mpg": 5,
        "s1/bbaf4p.mpg": 5,
        "s1/brwx7p.mpg": 4,
        "s1/lrbg3s.mpg": 5,
    }


def test_an_align_file_that_cannot_be_read_is_a_reject(tmp_path: Path) -> None:
    put_recordings(tmp_path, "s1/bbaf2n.mpg", "s1/bbaf3s.mpg")
    put_align(tmp_path, "align/s1/bbaf2n.align", ALIGN)
    (tmp_path / "align/s1/bbaf3s.align").write_bytes(b"\xff\xfe\x00")
    assert reasons(tmp_path) == [("bad_row", "align/s1/bbaf3s.align: it is not a text file")]


def test_every_other_file_is_a_reject(tmp_path: Path) -> None:
    put_recordings(tmp_path, "s1/bbaf2n.mpg", "s1/video/mpg_vcd/bbaf2n.mpg")
    (tmp_path / "audio_25k/s1").mkdir(parents=True)
    (tmp_path / "audio_25k/s1/bbaf2n.wav").write_bytes(b"RIFF")
    (tmp_path / "jasagrid.pdf").write_bytes(b"%PDF")
    put_recordings(tmp_path, "other/lrbg3s.mpg")
    put_align(tmp_path, "alignments/s1/bbaf2n.align", ALIGN)
    put_align(tmp_path, "alignments/s1/bbaf3s.align")
    put_align(tmp_path, "alignments/s2/lrbg3s.align")
    twin = "s1/bbaf2n.mpg is of the same talker, has the same name and was used"
    assert sorted((reject.source, reject.reason) for reject in read_dataset("grid", tmp_path).rejects) == [
        ("alignments/s1/bbaf3s.align", "it is of a recording, but there is no such file"),
        ("alignments/s2", "it has 1 align files, but there are no recordings of them"),
        ("audio_25k/s1/bbaf2n.wav", twin),
        ("jasagrid.pdf", "not a media file by its name (.pdf)"),
        ("other/lrbg3s.mpg", "it is in no folder of a talker such as s1"),
        ("s1/video/mpg_vcd/bbaf2n.mpg", twin),
    ]


def test_align_folders_that_are_exchanged_are_used_for_the_talkers_whose_names_they_have(tmp_path: Path) -> None:
    names = sentences(24)
    for talker, folder, own in (("s5", "s6", names[:12]), ("s6", "s5", names[12:])):
        for name in own:
            put_recordings(tmp_path, f"{talker}/{name}.mpg")
            put_align(tmp_path, f"alignments/{folder}/{name}.align")
    # A sentence that both talkers have: its times in the folder with the wrong name are the other talker's.
    put_recordings(tmp_path, f"s6/{names[0]}.mpg")
    times = (0, 15000, 21000, 27750, 33000, 40500, 50750, 60500, 74500)
    put_align(tmp_path, f"alignments/s5/{names[0]}.align", align_of(names[0], times))
    dataset = read_dataset("grid", tmp_path)
    assert (len(dataset.sources), dataset.rejects) == (25 * 6, ())
    starts = {source.path: source.start_s for source in reversed(dataset.sources)}
    assert (starts[f"s5/{names[0]}.mpg"], starts[f"s6/{names[0]}.mpg"]) == (0.58, 0.6)


def test_a_few_common_sentences_do_not_exchange_folders(tmp_path: Path) -> None:
    names = sentences(4)
    put_recordings(tmp_path, *(f"s5/{name}.mpg" for name in names))
    for name in names:
        put_align(tmp_path, f"alignments/s6/{name}.align")
    put_align(tmp_path, "alignments/s5/bbaf2n.align", ALIGN)
    with pytest.raises(ConfigError, match=r"no file that can be used as the layout grid has it.*no align file of it"):
        read_dataset("grid", tmp_path)


def test_the_talkers_of_lipnets_test_are_the_test_part(tmp_path: Path) -> None:
    names = sentences(40)
    for talker in ("s1", "s3", "s4", "s22"):
        for name in names:
            put_recordings(tmp_path, f"{talker}/{name}.mpg")
    (split,) = read_dataset("grid_recordings", tmp_path).splits
    assert split.name == "talkers"
    roles = {talker: {split.roles[f"{talker}/{name}.mpg"] for name in names} for talker in ("s1", "s3", "s4", "s22")}
    assert roles["s1"] == roles["s22"] == {"test"}
    assert roles["s3"] == roles["s4"] == {"train", "validation"}
    assert all(split.roles[f"s3/{name}.mpg"] == split.roles[f"s4/{name}.mpg"] for name in names)


def test_without_other_talkers_the_split_is_by_recording_and_depends_on_the_name_alone(tmp_path: Path) -> None:
    names, seen = sentences(400), dict[str, str]()
    for talker, count in (("s1", 200), ("s1", 400), ("s2", 400)):
        (tmp_path / talker).mkdir(exist_ok=True)
        for name in names[:count]:
            (tmp_path / talker / f"{name}.mpg").touch()
        (split,) = read_dataset("grid_recordings", tmp_path).splits
        parts = {name: split.roles[f"{talker}/{name}.mpg"] for name in names[:count]}
        assert split.name == "recordings"
        assert seen.items() <= parts.items()
        seen = dict(parts)
    shares = {part: count / 400 for part, count in Counter(seen.values()).items()}
    assert shares == pytest.approx({"train": 0.7, "validation": 0.1, "test": 0.2}, abs=0.06)


def test_whole_recordings_are_cut_into_windows_without_any_align_file(tmp_path: Path) -> None:
    put_recordings(tmp_path / "grid", "s1/bbaf2n.mpg", "s1/lrbg3s.mpg")
    put_align(tmp_path / "grid", "alignments/s1/bbaf2n.align", ALIGN)
    layout = shard(tmp_path / "corpus", tmp_path / "grid", settings(layout="grid_recordings"))
    folder = shard(tmp_path / "plain", tmp_path / "grid/s1", settings(layout=None))
    assert (layout.rows, folder.rows) == (8, 8)  # Of 3 s each.
    assert (label_columns(tmp_path / "corpus"), label_columns(tmp_path / "plain")) == (["label_talker"], [])
    index = read_whole_index(tmp_path / "corpus").to_pylist()
    assert sorted({row["start_s"] for row in index}) == pytest.approx([0.0, 0.64, 1.28, 1.92])
    assert {row["frames"] for row in index} == {16}
    kinds = Counter(row["kind"] for row in pq.read_table(tmp_path / "corpus" / "rejects.parquet").to_pylist())
    assert kinds == {"too_short": 2}


def test_a_root_without_recordings_names_the_layout(tmp_path: Path) -> None:
    put_align(tmp_path, "alignments/s1/bbaf2n.align", ALIGN)
    with pytest.raises(ConfigError, match=r"no recording\. Expected below this folder: recordings such as s1/bbaf2n"):
        read_dataset("grid", tmp_path)


@needs(GRID)
def test_real_recordings_are_read_with_and_without_align_files(tmp_path: Path) -> None:
    (tmp_path / "grid/s1").mkdir(parents=True)
    for name in ("bbaf2n", "bbaf3s"):
        (tmp_path / f"grid/s1/{name}.mp4").write_bytes((GRID / f"talker1/{name}.mp4").read_bytes())
    put_align(tmp_path / "grid", "alignments/s1/bbaf2n.align", ALIGN)
    record = shard(tmp_path / "corpus", tmp_path / "grid", settings(segment_seconds=0.64))
    assert (record.rows, record.rejects) == (6, 1)
    made = {(row["label"], row["start_s"]) for row in read_whole_index(tmp_path / "corpus").to_pylist()}
    assert made == {("bin", 0.76), ("blue", 0.96), ("at", 1.08), ("letter_f", 1.2), ("two", 1.44), ("now", 1.68)}
    assert len(read_dataset("grid_recordings", GRID).sources) == 1000
