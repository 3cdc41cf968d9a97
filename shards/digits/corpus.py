"""Write a corpus of audio-visual digits with several processes. It is complete or absent under its name."""

import csv
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shards.digits import handwriting, speech, voice
from shards.digits.factors import LABELS, Voices
from shards.digits.pool import draw_clips
from shards.digits.render import AUDIO_BITS, CRF, Material
from shards.digits.settings import SAMPLE_RATE, DigitsSettings
from shards.errors import ConfigError
from shards.store.fault import fault_point
from shards.store.files import taken_away
from shards.store.lock import exclusive

MANIFEST = "manifest.csv"
SETTINGS = "settings.json"
GENERATOR = 1  # Raise it when the same settings give other clips.
COLUMNS = ("path", *LABELS, "split")

Recordings = dict[tuple[int, str, int], speech.Recording]


def _identity(settings: DigitsSettings, recordings: Recordings) -> dict[str, Any]:
    """Return the settings that decide the clips: not the folder of the speech, not the number of processes."""
    return {
        "generator": GENERATOR,
        **settings.model_dump(mode="json", exclude={"workers", "speech"}),
        "speech_sha256": speech.digest_recordings(recordings) if recordings else None,
    }


def _existing(out: Path, identity: dict[str, Any]) -> Path | None:
    """Return the path of the manifest of a corpus that exists in `out`; None if there is nothing.

    Raises:
        ConfigError: `out` contains something else, was made with other settings, or lacks files.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        before = json.loads((out / SETTINGS).read_bytes())["identity"]
        before = dict(before)
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{out} exists and is not a corpus of digits (no readable {SETTINGS}). Choose another folder."
        ) from None
    if before != identity:
        changed = ", ".join(
            f"{key}: {before.get(key)} there, {identity.get(key)} asked for"
            for key in {**before, **identity}
            if before.get(key) != identity.get(key)
        )
        raise ConfigError(
            f"{out} holds digits made with other settings ({changed}). Choose another folder or delete it."
        )
    manifest = out / MANIFEST
    if not manifest.is_file():
        raise ConfigError(f"{manifest} is missing. Delete {out} and run this again.")
    with manifest.open(encoding="utf-8", newline="") as file:
        missing = [row["path"] for row in csv.DictReader(file) if not (out / row["path"]).is_file()]
    if missing:
        raise ConfigError(
            f"{out} has lost {len(missing)} of its clips, {missing[0]} first. Delete it and run this again."
        )
    return manifest


def _material(settings: DigitsSettings, recordings: Recordings) -> Material:
    splits = [split for split, clips in settings.clips_by_split.items() if clips]
    if recordings:
        voices = {split: speech.recorded_voices(recordings, split, settings.validated) for split in splits}
    else:
        voices = {split: Voices(tuple(voice.SPEAKERS), {}) for split in splits}
    return Material(settings, handwriting.load_handwriting(settings.digit_pixels), voices, recordings)


def _record(settings: DigitsSettings, identity: dict[str, Any], material: Material) -> dict[str, Any]:
    """Return the contents of settings.json."""
    return {
        "what": "audio-visual digits: picture and sound share only the digit",
        "identity": identity,
        "settings": settings.model_dump(mode="json"),
        "handwriting": {"source": handwriting.SOURCE, "train_samples": handwriting.TRAIN_SAMPLES},
        "sound": {
            "source": speech.SOURCE if material.recordings else voice.SOURCE,
            "recordings": len(material.recordings),
            "speakers": list(material.voices["train"].speakers),
        },
        "encoding": {"crf": CRF, "audio_bits_per_second": AUDIO_BITS, "sample_rate": SAMPLE_RATE},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("av", "numpy", "scipy", "scikit-learn")},
        },
    }


def write_digits(out: Path, settings: DigitsSettings, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write a corpus of audio-visual digits into `out` and return the path of its manifest.

    `out` contains `videos/` (mp4: H.264 and AAC), `manifest.csv` (one row per clip: path relative to the
    manifest, labels, split) and `settings.json`. The same settings give the same bytes on the same machine,
    independent of the number of workers; an existing corpus is returned at once. A killed call leaves nothing
    under the name `out`, and the next call removes its left-overs. `progress` receives the number of finished
    clips and of all clips.

    With more than one worker, call it from a file that Python can import again: under
    `if __name__ == "__main__":` in a script.

    Raises:
        ConfigError: `out` contains something else, or the folder of speech cannot be used.
        Busy: another living process is writing `out`.
        StageError: a drawing process was killed.
    """
    out = out.resolve()
    recordings = speech.list_recordings(settings.speech) if settings.speech is not None else {}
    identity = _identity(settings, recordings)
    if (manifest := _existing(out, identity)) is not None:
        return manifest
    with exclusive(out):
        if (manifest := _existing(out, identity)) is not None:  # Another process finished it meanwhile.
            return manifest
        for sibling in list(out.parent.iterdir()):
            if re.fullmatch(rf"\.{re.escape(out.name)}\.[0-9a-f]{{12}}\.digits", sibling.name):
                # Renamed first: if its writer is alive on another machine, it must not commit a half-deleted corpus.
                doomed = _unused(out)
                os.rename(sibling, doomed)
                shutil.rmtree(doomed)
        # A new name each time: a worker that survives a killed parent for a moment then disturbs nothing.
        partial = _unused(out)
        partial.mkdir()
        try:
            material = _material(settings, recordings)
            rows = draw_clips(material, partial, progress)
            with (partial / MANIFEST).open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            record = json.dumps(_record(settings, identity, material), indent=2, ensure_ascii=False)
            (partial / SETTINGS).write_text(record + "\n", encoding="utf-8")
            os.sync()
            fault_point("before commit", out.name)
            os.rename(partial, out)
            fault_point("after commit", out.name)
        except FileNotFoundError as error:
            if not partial.exists():
                raise taken_away(partial) from error
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return out / MANIFEST


def _unused(out: Path) -> Path:
    return out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.digits")
