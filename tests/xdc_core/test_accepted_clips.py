"""A corpus that is made anew of the same sources may have other clips: what was made of it is then stale."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from shards.store.manifest import read_manifest, write_manifest
from tests.runs import MakeRun
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.state import node_state
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

INIT = Node("init", "audio")
EXTRACT = Node("extract", "audio", 0)


def write(path: Path, size: tuple[int, int], codec: str) -> None:
    """A second of grey with noise to hear."""
    with av.open(str(path), "w") as output:
        video: Any = output.add_stream(codec, rate=4)
        audio: Any = output.add_stream("pcm_s16le", rate=16000, layout="mono")
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        for _ in range(4):
            picture = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 99, np.uint8), format="rgb24")
            output.mux(video.encode(picture))
        output.mux(video.encode(None))
        noise = np.random.default_rng(0).integers(-9999, 9999, (1, 16000)).astype(np.int16)
        sound = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        sound.sample_rate = 16000
        output.mux(audio.encode(sound))


def states(run: Run) -> list[tuple[str, str]]:
    fingerprints = Fingerprints(run)
    return [node_state(run, node, fingerprints) for node in (SHARD, INIT)]


@pytest.mark.slow
def test_what_was_made_of_other_clips_is_stale(make_run: MakeRun, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(4):
        write(videos / f"{number}.mkv", (64, 48), "mpeg4")
    write(videos / "large.mkv", (8000, 6000), "ffv1")
    corpus = {"path": str(tmp_path / "corpus"), "videos": str(videos), "max_pixels": 10**8, "workers": 1}
    corpus |= {"learn_splits": None, "min_seconds": 0.5, "max_reject_share": 1.0}
    run = make_run(corpus=corpus | {"clip_memory_mb": 96})
    first = run_stage(run, SHARD)
    assert (first.rows, first.rejects) == (4, 1)
    run_stage(run, INIT)
    assert states(run) == [("fresh", ""), ("fresh", "")]
    # Made anew with the same clips: nothing is stale.
    assert run_stage(run, SHARD, force=True).fingerprint == first.fingerprint
    assert states(run) == [("fresh", ""), ("fresh", "")]
    # With more memory, which is no setting of what is stored, the large one is accepted.
    text = (run.root / "xdc.yaml").read_text()
    (run.root / "xdc.yaml").write_text(text.replace("clip_memory_mb: 96", "clip_memory_mb: 2048"))
    run = open_run(run.root)
    assert states(run) == [("fresh", ""), ("fresh", "")]
    second = run_stage(run, SHARD, force=True)
    assert (second.rows, second.fingerprint) == (5, first.fingerprint)
    assert states(run) == [("fresh", ""), ("stale", "shard changed")]
    assert not run_stage(run, INIT).reused


def test_what_was_made_of_a_corpus_without_a_digest_of_its_clips_stays_fresh(
    worked_run: Run, copy_run: MakeRun
) -> None:
    run = copy_run(corpus={"path": "corpus"})
    (run.root / "corpus").symlink_to(worked_run.corpus)
    own = Fingerprints(run).of(SHARD)
    assert Fingerprints(run).inputs_of(EXTRACT)["shard"] != own
    (run.root / "corpus").unlink()
    (run.root / "corpus").mkdir()
    for path in worked_run.corpus.iterdir():
        if path.name != "manifest.json":
            (run.root / "corpus" / path.name).symlink_to(path)
    manifest = read_manifest(worked_run.corpus)
    assert manifest is not None
    del manifest.summary["accepted"]
    write_manifest(run.root / "corpus", manifest)
    assert Fingerprints(run).inputs_of(EXTRACT)["shard"] == own
