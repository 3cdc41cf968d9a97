"""Which part of which video goes where: decided before anything is written, the same each time."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shards.corpus.plan import Plan, PlannedClip, clip_key, corpus_fingerprint, make_plan, spans
from shards.reject import Reject, reject_of
from shards.settings import CorpusSettings
from shards.sources.source import Listing, Source
from shards.sources.surveyed import Survey, Surveyed, survey_columns

TEN = CorpusSettings(clip_seconds=10, min_seconds=2, clips_per_shard=4)


def listed(*sources: Source, rejects: Iterable[Reject] = ()) -> Listing:
    return Listing(Path("videos"), sources, tuple(rejects))


def facts(listing: Listing, duration_s: float = 35.0, **changes: Any) -> Survey:
    paths = {source.path for source in listing.sources}
    return survey_columns(replace(Surveyed(path, 1, 1, "content", duration_s), **changes) for path in paths)


def clips_of(plan: Plan) -> list[PlannedClip]:
    return list(plan.clips())


def rejects_of(plan: Plan) -> list[Reject]:
    return [reject_of(row) for row in plan.rejects.to_pylist()]


@pytest.mark.parametrize(
    ("end_s", "cuts", "lost_s"),
    [
        (10.0, [(0, 10)], 0),
        (30.0, [(0, 10), (10, 20), (20, 30)], 0),
        (25.0, [(0, 10), (10, 20), (20, 25)], 0),
        (22.0, [(0, 10), (10, 20), (20, 22)], 0),
        (21.5, [(0, 10), (10, 20)], 1.5),
        (7.0, [(0, 7)], 0),
        (1.0, [], 1.0),
        # Headers round: a millisecond too few is not a lost clip, and one too many no lost rest.
        (19.9995, [(0, 10), (10, 20)], 0),
        (20.0005, [(0, 10), (10, 20)], 0),
        (1.9995, [(0, 1.9995)], 0),
        (19.99, [(0, 10), (10, 19.99)], 0),
    ],
)
def test_a_video_is_cut_into_clips_and_a_rest(end_s: float, cuts: list[tuple[float, float]], lost_s: float) -> None:
    found, lost = spans(0.0, end_s, 10.0, 2.0)
    assert len(found) == len(cuts)
    assert sum(found, ()) == pytest.approx(sum(cuts, ()))
    assert lost == pytest.approx(lost_s)


def test_spans_begin_where_the_source_begins_and_do_not_drift() -> None:
    found, lost = spans(0.7, 100.7, 0.1, 0.1)
    assert len(found) == 1000
    assert lost == 0
    assert found[0] == pytest.approx((0.7, 0.8))
    assert found[-1] == pytest.approx((100.6, 100.7))
    assert all(before[1] == pytest.approx(after[0], abs=1e-9) for before, after in itertools.pairwise(found))


@pytest.mark.parametrize(
    "path",
    ["a.mp4", "deep/er/a.b.c.mp4", "Tëst vidéo.webm", "日本.mkv", "...mp4", "a" * 300 + ".mp4", "plain", "-.mp4"],
)
def test_a_key_has_neither_dots_nor_slashes_and_fits_a_tar_header(path: str) -> None:
    key = clip_key(path, 12.345)
    assert re.fullmatch(r"[A-Za-z0-9_-]+-[0-9a-f]{10}-00012345", key)
    assert not key.startswith("-")
    assert len(key) + len(".flac") <= 100


def test_keys_of_files_with_the_same_name_and_of_later_clips_differ() -> None:
    assert (
        len({clip_key(path, start) for path in ("a/x.mp4", "b/x.mp4", "x.mp4", "x.mkv") for start in (0, 0.001)}) == 8
    )
    assert clip_key("a/x.mp4", 0).split("-")[0] == "x"


def test_a_plan_is_the_same_each_time_and_shuffled_over_sources() -> None:
    listing = listed(*(Source(f"{n}.mp4") for n in range(20)))
    plan = make_plan(TEN, listing, facts(listing, 40.0))
    assert clips_of(plan) == clips_of(make_plan(TEN, listing, facts(listing, 40.0)))
    order = [(clip.source, clip.start_s) for clip in clips_of(plan)]
    assert len(set(order)) == len(order) == 80
    assert order != sorted(order)
    # Clips of one video are not together: a shard of four holds clips of several.
    assert sum(len({clip.source for clip in clips_of(plan)[n : n + 4]}) > 2 for n in range(0, 80, 4)) >= 18
    assert len({clip.key for clip in clips_of(plan)}) == 80


def test_another_seed_gives_another_order_of_the_same_clips() -> None:
    listing = listed(*(Source(f"{n}.mp4") for n in range(20)))
    one, two = (make_plan(TEN.model_copy(update={"shuffle_seed": n}), listing, facts(listing)) for n in (0, 1))
    assert [clip.key for clip in clips_of(one)] != [clip.key for clip in clips_of(two)]
    assert {clip.key for clip in clips_of(one)} == {clip.key for clip in clips_of(two)}


def test_shards_are_filled_in_order_and_only_the_last_is_short() -> None:
    listing = listed(*(Source(f"{n}.mp4") for n in range(10)))
    plan = make_plan(TEN, listing, facts(listing, 10.0))
    assert [clip.shard for clip in clips_of(plan)] == [0] * 4 + [1] * 4 + [2] * 2
    assert plan.shards == 3
    assert [plan.places(number) for number in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_a_row_with_a_span_stays_within_it_and_within_the_video() -> None:
    listing = listed(Source("a.mp4", 3.0, 16.0), Source("b.mp4", 30.0, 99.0), Source("c.mp4", None, 4.0))
    plan = make_plan(TEN, listing, facts(listing, 35.0))
    assert sorted((clip.source, clip.start_s, clip.end_s) for clip in clips_of(plan)) == [
        ("a.mp4", 3.0, 13.0),
        ("a.mp4", 13.0, 16.0),
        ("b.mp4", 30.0, 35.0),
        ("c.mp4", 0.0, 4.0),
    ]
    assert rejects_of(plan) == []


def test_every_source_that_gives_no_clip_or_loses_a_rest_is_accounted_for() -> None:
    earlier = Reject("notes.txt", "list", "not_media", "not a media file")
    listing = listed(
        Source("good.mp4"), Source("broken.mp4"), Source("late.mp4", 50.0), Source("short.mp4"), rejects=[earlier]
    )
    found = facts(listing, 31.5)
    broken = Surveyed("broken.mp4", 1, 1, "x", reason="no sound: the file has no audio stream")
    found = survey_columns([*found.files(), broken, replace(found["short.mp4"], duration_s=1.25)])
    plan = make_plan(TEN, listing, found)
    assert [(clip.source) for clip in clips_of(plan)] == ["good.mp4"] * 3
    assert rejects_of(plan)[0] == earlier
    assert [(reject.source, reject.step, reject.reason) for reject in rejects_of(plan)[1:]] == [
        ("good.mp4", "plan", "the rest of the video is 1.50 s long, shorter than min_seconds (2)"),
        ("broken.mp4", "probe", "no sound: the file has no audio stream"),
        ("late.mp4", "plan", "start_s (50) is after the end of the video (31.50 s)"),
        ("short.mp4", "plan", "the video is 1.25 s long, shorter than min_seconds (2)"),
    ]
    assert (rejects_of(plan)[1].start_s, rejects_of(plan)[1].end_s) == (30.0, 31.5)


def test_a_clip_that_begins_where_an_earlier_row_has_one_is_a_reject() -> None:
    listing = listed(Source("a.mp4", None, 20.0), Source("a.mp4", 10.0, 15.0), Source("a.mp4", 5.0, 15.0))
    plan = make_plan(TEN, listing, facts(listing))
    assert sorted((clip.start_s, clip.end_s) for clip in clips_of(plan)) == [(0, 10), (5, 15), (10, 20)]
    (reject,) = rejects_of(plan)
    assert (reject.reason, reject.start_s, reject.end_s) == ("overlaps an earlier row", 10.0, 15.0)


def test_a_window_that_begins_where_an_earlier_one_does_says_which_setting_helps() -> None:
    settings = CorpusSettings(clip_seconds=10, min_seconds=2, segment_seconds=8)
    listing = listed(Source("a.mp4", 1.0, 2.0), Source("a.mp4", 2.0, 3.0), Source("a.mp4", 20.0, 21.0))
    plan = make_plan(settings, listing, facts(listing))
    assert sorted((clip.start_s, clip.end_s) for clip in clips_of(plan)) == [(0.0, 8.0), (16.5, 24.5)]
    (reject,) = rejects_of(plan)
    reason = "its window begins where that of an earlier part begins; make segment_seconds shorter"
    assert (reject.kind, reject.reason, reject.start_s, reject.end_s) == ("duplicate", reason, 0.0, 8.0)


def test_nothing_to_cut_is_a_plan_without_shards() -> None:
    listing = listed(Source("a.mp4"))
    plan = make_plan(TEN, listing, facts(listing, reason="no sound"))
    assert (plan.shards, clips_of(plan), len(rejects_of(plan))) == (0, [], 1)


def test_the_fingerprint_follows_what_is_stored_and_nothing_else() -> None:
    listing = listed(Source("a.mp4", labels={"label": "x"}), Source("b.mp4"))
    found = facts(listing)
    base = corpus_fingerprint(TEN, listing, found)

    def with_settings(**changes: Any) -> str:
        return corpus_fingerprint(TEN.model_copy(update=changes), listing, found)

    for same in (
        {"path": "x"},
        {"workers": 7},
        {"clip_timeout_s": 1.0},
        {"clip_memory_mb": 99},
        {"clip_cpu_s": 1.0},
        {"max_reject_share": 1.0},
        {"videos": "y"},
    ):
        assert with_settings(**same) == base
    others = [
        with_settings(**other)
        for other in ({"crf": 20}, {"fps": 25.0}, {"shuffle_seed": 1}, {"silence": "keep"}, {"max_pixels": 9})
    ]
    others.append(corpus_fingerprint(TEN, listed(Source("a.mp4", labels={"label": "y"}), Source("b.mp4")), found))
    others.append(corpus_fingerprint(TEN, listed(Source("a.mp4", 1.0, labels={"label": "x"}), Source("b.mp4")), found))
    others.append(corpus_fingerprint(TEN, listing, facts(listing, sha256="altered")))
    others.append(corpus_fingerprint(TEN, listed(Source("a.mp4", labels={"label": "x"})), found))
    assert len({base, *others}) == 1 + len(others)
    # Only a new time stamp on the same bytes: the same corpus.
    assert corpus_fingerprint(TEN, listing, facts(listing, mtime_ns=99)) == base


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"min_seconds": 11.0}, r"min_seconds \(11\.0\) is larger than clip_seconds \(10\.0\)"),
        ({"high_pass_hz": 8000.0}, r"high_pass_hz \(8000\.0\) must be below half of sample_rate \(16000\)"),
        ({"fps": 0}, "fps"),
        ({"silence": "maybe"}, "silence"),
        ({"clip_second": 5}, "clip_second"),
    ],
)
def test_settings_that_could_keep_no_clip_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CorpusSettings(**wrong)


@pytest.mark.parametrize("duration_s", [0.0001, 0.001, 0.0011, 1.5])
def test_a_source_that_is_next_to_nothing_is_a_reject_too(duration_s: float) -> None:
    listing = listed(Source("a.mp4"))
    plan = make_plan(TEN, listing, facts(listing, duration_s=duration_s))
    assert clips_of(plan) == []
    assert [reject.step for reject in rejects_of(plan)] == ["plan"]
    assert "shorter than min_seconds (2)" in rejects_of(plan)[0].reason
