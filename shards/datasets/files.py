"""The files of a data set on disk, found by the names in official lists."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from shards.errors import ConfigError
from shards.reject import Reject
from shards.sources.source import MEDIA_SUFFIXES, SOUND_SUFFIXES, list_folder


@dataclass(frozen=True)
class Files:
    """The media files below a root (paths relative to it, sorted), and the rejects."""

    root: Path
    names: tuple[str, ...]
    rejects: tuple[Reject, ...]


def find_files(root: Path, below: str = "", read: Collection[Path] = ()) -> Files:
    """List `root / below`. Files and folders in `read` are lists of the layout, neither media nor rejects."""
    listing = list_folder(root / below, label_from_folder=False)
    prefix = f"{below}/" if below else ""
    skipped = [path.relative_to(root).as_posix() for path in read]

    def wanted(name: str) -> bool:
        return not any(name == path or name.startswith(f"{path}/") for path in skipped)

    names = (prefix + source.path for source in listing.sources)
    rejects = (replace(reject, source=prefix + reject.source) for reject in listing.rejects)
    return Files(
        root,
        tuple(name for name in names if wanted(name)),
        tuple(reject for reject in rejects if wanted(reject.source)),
    )


def without_suffix(name: str) -> str:
    """Return a path without the suffix of a media file."""
    path = PurePosixPath(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in MEDIA_SUFFIXES else name


def tail(name: str, depth: int) -> str:
    """Return the last `depth` parts of a path in lower case, for the comparison of lists and files."""
    return "/".join(name.split("/")[-depth:]).casefold()


def index_files(names: Sequence[str], depth: int) -> dict[str, str]:
    """Return paths by their last `depth` parts, with and without suffix: the name x.avi also finds x.mp4.

    Of several files with the same name the first is used; a file with the exact suffix is preferred.
    """
    index: dict[str, str] = {}
    for name in names:
        index.setdefault(tail(name, depth), name)
    for name in names:
        index.setdefault(without_suffix(tail(name, depth)), name)
    return index


def look_up(index: dict[str, str], name: str, depth: int) -> str | None:
    """Return the path of the file that a list calls `name`; None if there is none."""
    key = tail(name, depth)
    return index.get(key) or index.get(without_suffix(key))


def unlisted(files: Files, used: Iterable[str], key: Callable[[str], str]) -> list[Reject]:
    """Return a reject for every unused file: another file with the same key was used, or no list names it."""
    used = set(used)
    taken = {key(path): path for path in used}
    rejects = []
    for path in sorted(set(files.names) - used):
        twin = taken.get(key(path))
        if twin:
            rejects.append(Reject(path, "list", "duplicate", f"{twin} has the same name and was used"))
        else:
            rejects.append(Reject(path, "list", "unlisted", "no list names it"))
    return rejects


def certain_modalities(names: Iterable[str]) -> tuple[str, ...]:
    """Return the modality that all files have by their suffixes: sound or pictures; () for a mixture."""
    kinds = {"audio" if PurePosixPath(name).suffix.lower() in SOUND_SUFFIXES else "video" for name in names}
    return tuple(kinds) if len(kinds) == 1 else ()


def find_lists(root: Path, folders: Sequence[str], pattern: str, layout: str) -> Path:
    """Return the first of `folders` below `root` with files named like `pattern`.

    Raises:
        ConfigError: there is none; the text describes the layout.
    """
    for folder in folders:
        if next((root / folder).glob(pattern), None) is not None:
            return root / folder
    places = ", ".join(f"{folder}/" for folder in folders if folder != ".")
    raise wrong_root(root, f"no {pattern} in it or in {places}", layout)


def wrong_root(root: Path, lacking: str, layout: str) -> ConfigError:
    """Return the error for a root without the layout."""
    return ConfigError(f"{root}: {lacking}. Expected below this folder: {layout}.")


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Return (where, text) of every line of a list that is not empty; `where` names it in messages.

    Raises:
        ConfigError: the file is missing or not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path.name}, line {number}", line.strip()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. It is part of the layout.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8: {error}") from error
