"""Check what a run on an object store needs of a machine: the client, credentials, the bucket, the cache's folder."""

import importlib.metadata
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from flows.cli.machine.finding import finding
from shards.errors import ConfigError, MachineError, StageError
from shards.objects.bucket import Bucket
from shards.objects.cache import Cache
from shards.objects.generation import read_current
from shards.settings import is_url
from shards.store.manifest import MANIFEST
from xdc_core.config.load import FILE_NAME
from xdc_core.runs.run import open_run

PATIENCE_S = 10.0  # How long a server that does not answer is waited for here.


def object_stores(folders: Sequence[Path]) -> Iterator[dict[str, str]]:
    """Yield findings on each run among the folders whose corpus is in an object store. No object is written.

    Raises:
        ConfigError: a run's configuration is wrong.
    """
    for folder in folders:
        if not (folder / FILE_NAME).exists():
            continue
        config = open_run(folder).config
        if is_url(config.corpus.path):
            yield from _bucket(config.corpus.path)
            if (cache := config.runs_on.clip_cache) is not None:
                yield _cache(cache)


def _bucket(url: str) -> Iterator[dict[str, str]]:
    try:
        yield finding("obstore", "works", importlib.metadata.version("obstore"))
        bucket = Bucket(url, PATIENCE_S)
        yield finding("credentials", "works", f"found here, for {url}")
    except importlib.metadata.PackageNotFoundError:
        yield finding("obstore", "broken", f"not installed, and {url} needs it: pip install 'xdc-pipeline[s3]'")
        return
    except (ConfigError, MachineError) as error:
        yield finding("credentials", "broken", str(error))
        return
    try:
        copied = bucket.find(MANIFEST) is not None
        there = "a corpus was copied there" if copied else "a corpus was cut into it"
        if not copied and read_current(bucket) is None:
            there = "no corpus is there yet. Whether objects may be put there is not tested"
        yield finding("bucket", "works", f"{url} can be read: {there}")
    except StageError as error:
        yield finding("bucket", "broken", str(error))


def _cache(cache: Cache) -> dict[str, str]:
    folder = cache.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        used, free = cache.taken(), shutil.disk_usage(folder).free
    except OSError as error:
        return finding("cache", "absent", f"{folder} cannot be written ({error.strerror}): runs go on without it")
    room = f"{folder}: {used / 1e9:.1f} of {cache.limit / 1e9:g} GB (runs_on.cache_gb), {free / 1e9:.1f} GB free"
    if used + free < cache.limit:
        return finding("cache", "absent", f"{room}. Its disk will be full first: lower runs_on.cache_gb")
    return finding("cache", "works", room)
