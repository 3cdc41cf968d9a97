"""A layout of an installed package: `<split>-<class>-<name>.wav`, in one folder."""

from pathlib import Path

import pytest

from shards.corpus.index import read_whole_index
from shards.corpus.seen import corpus_fingerprint_now
from shards.corpus.stage import shard
from shards.errors import ConfigError
from shards.layouts.registry import LAYOUTS, read_dataset
from shards.settings import CorpusSettings
from tests.installed_package import install_package
from tests.shards.dataset_maker import put

READ = """
from shards.datasets.dataset import Split, check_splits, make_dataset
from shards.datasets.files import find_files
from shards.reject import Reject
from shards.sources.source import Source

def read_flat(root):
    files = find_files(root)
    sources, rejects, roles = [], list(files.rejects), {}
    for name in files.names:
        role, *label = name.split("-")
        if role in ("train", "test") and len(label) == 2:
            sources.append(Source(name, labels={"label": label[0]}))
            roles[name] = role
        else:
            rejects.append(Reject(name, "list", "unlisted", "its name has no split and class"))
    return check_splits(make_dataset("flat", ("audio",), root, sources, rejects, [Split("1", roles)]))
"""
FILES = {
    "train-cat-a.wav": ("train", "cat"),
    "train-dog-a.wav": ("train", "dog"),
    "test-cat-b.wav": ("test", "cat"),
    "test-dog-b.wav": ("test", "dog"),
}


@pytest.fixture
def flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a data set in the layout; its package is on the search path."""
    points = {"xdc.layouts": {"flat": "flat_layout:read_flat"}}
    monkeypatch.syspath_prepend(install_package(tmp_path / "site", "flat-sounds", {"flat_layout.py": READ}, points))
    put(tmp_path / "set", *FILES, "notes.wav")
    return tmp_path / "set"


def test_a_data_set_is_read_in_it(flat: Path) -> None:
    dataset = read_dataset("flat", flat)
    assert {source.path: (source.split, source.labels["label"]) for source in dataset.sources} == FILES
    assert dataset.classes == ("cat", "dog")
    assert [(reject.source, reject.reason) for reject in dataset.rejects] == [
        ("notes.wav", "its name has no split and class")
    ]
    assert LAYOUTS.distribution("flat") == "flat-sounds 1.2.3"


def test_a_corpus_has_its_labels_splits_and_rejects(flat: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    settings = CorpusSettings(
        layout="flat", modalities=("audio",), clip_seconds=1.0, min_seconds=0.5, sample_rate=8000, workers=1
    )
    record = shard(corpus, flat, settings)
    assert (record.rows, record.rejects) == (len(FILES), 1)
    rows = read_whole_index(corpus).to_pylist()
    assert {row["source"]: (row["split"], row["label"]) for row in rows} == FILES
    assert corpus_fingerprint_now(corpus, flat, settings) == (record.fingerprint, "")
    assert shard(corpus, flat, settings).reused


def test_an_error_of_its_reader_names_the_data_set(flat: Path) -> None:
    for path in flat.glob("test-*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"split 1 of flat has no test item"):
        read_dataset("flat", flat)


@pytest.mark.usefixtures("flat")
def test_a_misspelt_name_is_refused_and_the_layout_suggested() -> None:
    with pytest.raises(ConfigError, match=r"the layout 'flatt' is unknown\. Did you mean 'flat'\?"):
        read_dataset("flatt", Path("nowhere"))
