"""Objects by name: those that are built in, and those that installed packages add by entry points."""

import difflib
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from shards.errors import ConfigError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from name to object. `registry[name]` loads what an entry point names; the names alone load nothing.

    A package adds to it by an entry point in the group, for example in its pyproject.toml:

        [project.entry-points."xdc.encoders"]
        my_encoder = "my_package.encoders:MY_ENCODER"
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, T], of: Any) -> None:
        """`kind`: what the objects are, for messages. `of`: the type of which an entry point's object must be."""
        self.kind, self.group, self.built_in = kind, group, dict(built_in)
        self._of = of
        self._loaded: dict[EntryPoint, T] = {}

    def __iter__(self) -> Iterator[str]:
        """Return the names: those built in, in their order, then those of installed packages, sorted."""
        return iter({**self.built_in, **dict.fromkeys(sorted(self._added()))})

    def __len__(self) -> int:
        return len({*self.built_in, *self._added()})

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._added()

    def __getitem__(self, name: str) -> T:
        """Return the object of a name. Raises KeyError where there is none, else as `find`."""
        if name not in self:
            raise KeyError(name)
        return self.find(name)

    def find(self, name: str) -> T:
        """Return the object of a name.

        Raises:
            ConfigError: the name is unknown (says which is meant, and which there are), given twice, or the package
                that gives it cannot be loaded.
        """
        self.check(name)
        points = self._added().get(name, ())
        if not points:
            return self.built_in[name]
        givers = (["xdc"] if name in self.built_in else []) + [distribution_of(point) for point in points]
        if len(givers) > 1:
            raise ConfigError(
                f"the {self.kind} {name!r} is given by {' and by '.join(givers)} (entry points of the group "
                f"{self.group}). Rename the entry point of one, or uninstall it."
            )
        (point,) = points
        if point not in self._loaded:
            self._loaded[point] = self._load(point)
        return self._loaded[point]

    def check(self, name: str) -> None:
        """Raise ConfigError where the name is unknown; says which is meant, and which there are. Loads nothing."""
        if name not in self:
            near = difflib.get_close_matches(name, self, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"the {self.kind} {name!r} is unknown.{hint} There are: {', '.join(self)}.")

    def loadable(self) -> dict[str, T]:
        """Return all objects, without those whose package cannot be loaded: for lists of what there is."""
        found = {}
        for name in self:
            try:
                found[name] = self.find(name)
            except ConfigError:
                continue
        return found

    def distribution(self, name: str) -> str:
        """Return name and version of the installed package that gives an object, "" where it is built in."""
        points = self._added().get(name, ())
        return distribution_of(points[0]) if points else ""

    def _added(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        return _by_name(self.group, tuple(sys.path))

    def _load(self, point: EntryPoint) -> T:
        where = f"the {self.kind} {point.name!r} of {distribution_of(point)} ({point.group}: {point.value})"
        try:
            loaded: T = point.load()
        except Exception as error:  # The import runs code of another package, which may fail in any way.
            raise ConfigError(
                f"{where} cannot be loaded: {type(error).__name__}: {error}. Repair that package, or uninstall it."
            ) from error
        if not isinstance(loaded, self._of):
            wanted = getattr(self._of, "__name__", str(self._of))
            raise ConfigError(f"{where} is an object of type {type(loaded).__name__}, but {wanted} is needed.")
        return loaded


def distribution_of(point: EntryPoint) -> str:
    """Return name and version of the installed package that has an entry point."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


@lru_cache
def _by_name(group: str, path: tuple[str, ...]) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return the entry points of a group by name; of one name several where packages disagree."""
    found: dict[str, list[EntryPoint]] = {}
    for point in _installed(path).select(group=group):
        found.setdefault(point.name, []).append(point)
    return {name: tuple(points) for name, points in found.items()}


@lru_cache
def _installed(path: tuple[str, ...]) -> Any:
    """Return all entry points of what is installed on a search path. Read once, for it takes a tenth of a second."""
    return entry_points()
