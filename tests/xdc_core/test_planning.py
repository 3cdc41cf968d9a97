"""The arithmetic of plans, and the drawing of their sources."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from shards.corpus.listing import list_columns
from shards.errors import ConfigError
from shards.settings import CorpusSettings
from shards.sources.source import Source
from tests.places import ROOT
from tests.runs import changed
from xdc_core.compute.kmeans_check import FaissGpus
from xdc_core.config.load import load_preset, parse_config
from xdc_core.planning import clustering
from xdc_core.planning.arithmetic import (
    INDEX_MAPPED_BYTES,
    INDEX_PRIVATE_BYTES,
    LABEL_BYTES,
    PLAN_BYTES,
    kept_rounds,
    kmeans_s,
    shards_of,
    span,
    whole_run,
)
from xdc_core.planning.draw import (
    FEWEST_WINDOWS,
    WINDOW_CLIPS,
    learnt_share,
    numbers_drawn,
    seconds_of,
    tried_parts,
    write_sample,
)
from xdc_core.planning.estimate import constant, range_of, ratio, weights


def test_the_range_of_a_ratio_holds_the_estimate_and_narrows_with_more_observations() -> None:
    random = np.random.default_rng(0)
    costs = random.lognormal(size=400)

    def width(count: int) -> float:
        found = range_of(ratio(weights(count, 1_000_000, seed=1), costs[:count], np.ones(count)))
        assert found.low <= found.middle <= found.high
        assert found.middle == pytest.approx(costs[:count].mean())
        return found.high - found.low

    assert width(400) < width(100) < width(25)


def test_nothing_is_uncertain_where_all_sources_are_observed() -> None:
    found = range_of(ratio(weights(3, 3, seed=0), [1, 5, 9], [1, 1, 1]))
    assert (found.low, found.middle, found.high) == (5, 5, 5)


def test_a_sample_of_broken_files_gives_nothing_and_no_division_by_zero() -> None:
    assert range_of(ratio(weights(4, 100, seed=0), [0] * 4, [0] * 4)).high == 0


def test_plans_are_sums_and_products() -> None:
    assert whole_run(2.0, 3.0, 5) == 17
    assert (whole_run(constant(2), constant(3), 5) == 17).all()
    assert kmeans_s(10.0, 100, 0.5, 0.25, heads=2) == 10 * 0.5 + 10 * 0.25 * 2
    assert kmeans_s(1000.0, 100, 0.5, 0.25) == 500 + 25
    assert (kept_rounds(6, None), kept_rounds(6, 1), kept_rounds(2, 5)) == (6, 2, 2)
    assert (shards_of(1001, 1000), shards_of(1000, 1000)) == (2, 1)
    assert [span(hours) for hours in (0.001, 1.5, 100)] == ["1 min", "1.5 h", "4.2 d"]


def test_the_bytes_of_plans_are_those_of_the_rates_on_paper() -> None:
    rates = json.loads((ROOT / "benchmarks" / "rates.json").read_text())
    here = {
        "index_private_bytes": INDEX_PRIVATE_BYTES,
        "index_mapped_bytes": INDEX_MAPPED_BYTES,
        "plan_bytes_in_memory": PLAN_BYTES,
        "label_bytes": LABEL_BYTES,
    }
    assert {name: rates[name]["value"] for name in here} == here


def test_the_same_seed_draws_the_same_sources() -> None:
    assert numbers_drawn(100, 5, seed=3) == numbers_drawn(100, 5, seed=3) != numbers_drawn(100, 5, seed=4)
    assert numbers_drawn(3, 5, seed=3) == [0, 1, 2]


def test_of_a_long_source_a_window_round_its_middle_is_tried() -> None:
    settings = CorpusSettings(clip_seconds=10)
    sources = [Source("a.mp4", start_s=100.0), *(Source(f"{number}.mp4") for number in range(FEWEST_WINDOWS))]
    hour, *short = tried_parts(Path("/videos"), sources, [3600.0, *[30.0] * FEWEST_WINDOWS], settings)
    assert hour.tried_s == 10 * WINDOW_CLIPS
    assert (hour.tried.start_s, hour.tried.end_s) == (100 + 1700, 100 + 1900)
    assert {(each.tried.start_s, each.tried.end_s, each.tried_s) for each in short} == {(None, None, 30.0)}


def test_of_few_long_sources_several_windows_are_tried_so_that_they_can_be_compared() -> None:
    settings = CorpusSettings(clip_seconds=10)
    film, short = Source("film.mp4", start_s=100.0), Source("short.mp4")
    parts = tried_parts(Path("/videos"), [film, short], [7200.0, 30.0], settings)
    windows = [(each.tried.start_s, each.tried.end_s) for each in parts if each.number == 0]
    assert windows == [(975, 1025), (2775, 2825), (4575, 4625), (6375, 6425)]
    assert sum(each.seconds for each in parts) == 7230
    assert [each.tried_s for each in parts] == [50, 50, 50, 50, 30]
    segments = tried_parts(Path("/videos"), [Source("a.mp4", 5.0, 900.0)], [895.0], CorpusSettings(segment_seconds=1))
    assert [(each.tried.start_s, each.tried.end_s) for each in segments] == [(5.0, 900.0)]


def test_sources_in_object_stores_are_refused_with_a_way_out(digits: Path) -> None:
    settings = CorpusSettings()
    listing = list_columns(digits, settings)
    with pytest.raises(ConfigError, match=r"s3://b/a\.mp4 is in an object store.*Copy some of the sources to a disk"):
        seconds_of(listing, [Source("s3://b/a.mp4")], settings)


def test_headers_give_the_seconds_of_sources_and_of_their_spans(digits: Path, tmp_path: Path) -> None:
    settings = CorpusSettings(workers=1)
    listing = list_columns(digits, settings)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    first = listing.sources[0]
    part = Source(first.path, start_s=0.5, end_s=99.0)
    found = seconds_of(listing, [first, part, Source(str(tmp_path / "broken.mp4"))], settings)
    assert found[0] == pytest.approx(1.125, abs=0.1)
    assert found[1:] == [pytest.approx(found[0] - 0.5), 0.0]


def test_a_file_without_a_duration_in_its_header_has_that_of_its_packets(digits: Path, tmp_path: Path) -> None:
    settings = CorpusSettings(workers=1)
    listing = list_columns(digits, settings)
    first, live = listing.sources[0], tmp_path / "live.mkv"
    with av.open(str(digits.parent / first.path)) as source, av.open(str(live), "w", options={"live": "1"}) as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    with av.open(str(live)) as opened:
        assert not opened.duration
    whole, found = seconds_of(listing, [first, Source(str(live))], settings)
    assert found == pytest.approx(whole, abs=0.1)


def test_the_sample_is_listed_with_its_spans_splits_and_labels(digits: Path, tmp_path: Path) -> None:
    settings = CorpusSettings()
    listing = list_columns(digits, settings)
    drawn = tried_parts(listing.root, listing.sources[:3], [1.125] * 3, settings)
    write_sample(tmp_path / "sample.csv", drawn)
    again = list_columns(tmp_path / "sample.csv", settings)
    assert [Path(each.path).name for each in again.sources] == [Path(each.source.path).name for each in drawn]
    assert [dict(each.labels) for each in again.sources] == [dict(each.source.labels) for each in drawn]
    assert 0 < learnt_share(listing.sources, ["test"]) < 1 == learnt_share(listing.sources, None)


@pytest.mark.parametrize(("device", "looks"), [("auto", False), ("cpu", False), ("cuda", True)])
def test_a_plan_looks_for_gpus_where_the_stage_would(monkeypatch: pytest.MonkeyPatch, device: str, looks: bool) -> None:
    asked = list[int]()

    def found() -> FaissGpus:
        asked.append(1)
        return FaissGpus(0, "", "")

    monkeypatch.setattr(clustering, "faiss_gpus", found)
    values = parse_config(load_preset("tiny"), "preset tiny").model_dump()
    config = parse_config(changed(values, {"runs_on": {"device": device}}), "the test's settings")
    clustering.clustering_rate(config, "video", {"video": 64}, k=4, rows=200)
    assert bool(asked) == looks
