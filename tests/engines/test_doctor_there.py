"""What `xdc doctor RUN` says of a run on a bucket."""

from hashlib import sha256
from pathlib import Path

import pytest

from flows.cli.machine import object_store
from flows.cli.machine.object_store import object_stores
from tests.engines.seaweed import Seaweed, copy_there
from tests.runs import MakeRun

pytestmark = pytest.mark.engines


def test_the_client_the_credentials_the_bucket_and_the_cache_have_a_line_each(
    s3: Seaweed, tiny_corpus: Path, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = copy_there(s3, tiny_corpus, "doctor")
    cache = {"cache": str(tmp_path / "cache"), "cache_gb": 0.02}
    here, on_it = make_run(), make_run(corpus={"path": url, "videos": None}, runs_on=cache)
    nothing = make_run(corpus={"path": "s3://corpora/nothing-yet", "videos": str(tmp_path)})
    assert list(object_stores([tmp_path, here.root])) == []

    def said(*folders: Path) -> list[tuple[str, str]]:
        found = list(object_stores(folders))
        text.append(found[-1]["text"])
        return [(each["what"], each["state"]) for each in found]

    text = list[str]()
    well = [("obstore", "works"), ("credentials", "works"), ("bucket", "works")]
    kept = on_it.config.runs_on.clip_cache
    assert kept is not None
    kept.put(sha256(b"a range").digest(), b"a range")
    kept.put(sha256(bytes(9000)).digest(), bytes(9000))
    assert kept.taken() == 4 * 4096, "whole blocks"
    assert said(on_it.root) == [*well, ("cache", "works")]
    assert said(nothing.root) == well
    assert "no corpus is there yet" in text[-1]
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        assert said(nothing.root) == [*well[:2], ("bucket", "broken")]
        assert "AWS_SECRET_ACCESS_KEY" in text[-1]
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("HOME", "/nonexistent")
        assert said(nothing.root) == [("obstore", "works"), ("credentials", "broken")]
    monkeypatch.setattr(object_store, "PATIENCE_S", 1.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert said(nothing.root)[-1] == ("bucket", "broken")
    assert "does not answer, in 1 s" in text[-1]
    (tmp_path / "file").write_text("")
    full = make_run(corpus={"path": url, "videos": None}, runs_on=cache | {"cache": str(tmp_path / "file")})
    assert said(full.root)[-1] == ("cache", "absent")
