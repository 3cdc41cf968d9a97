"""The label sources of each encoder, in which alone the four methods differ (XDC paper, Figure 1).

`supervised` is an additional baseline: its label source, TRUTH, is a label column of the corpus instead of clusters.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from shards.errors import ConfigError
from shards.registry import Registry

JOINT = "joint"
TRUTH = "truth"
OWN, OTHERS = "own", "others"
PAIR = ("video", "audio")  # The modalities of the paper.

# method -> the label sources of every encoder, one head each: its own modality, each of the others, or what they name.
METHODS: Registry[tuple[str, ...]] = Registry(
    "method",
    "xdc.methods",
    {
        "sdc": (OWN,),
        "mdc": (OWN, OTHERS),
        "cdc": (JOINT,),
        "xdc": (OTHERS,),
        "supervised": (TRUTH,),
    },
    of=tuple,
)


def _known_method(name: str) -> str:
    try:
        METHODS.check(name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return name


MethodName = Annotated[str, AfterValidator(_known_method)]


def heads(method: str, modalities: Sequence[str] = PAIR) -> dict[str, tuple[str, ...]]:
    """Return the label sources of each modality's encoder, one head each.

    Raises:
        ConfigError: the method's package cannot be loaded, or it names an unknown label source.
    """
    words = METHODS.find(method)
    known = (OWN, OTHERS, JOINT, TRUTH, *modalities)
    if not words or not set(words) <= set(known):
        raise ConfigError(f"the method {method!r} is {words!r}, but some of {', '.join(known)} are needed.")
    return {name: tuple(dict.fromkeys(_sources(words, name, modalities))) for name in modalities}


def _sources(method: tuple[str, ...], own: str, modalities: Sequence[str]) -> list[str]:
    meant = {OWN: [own], OTHERS: [name for name in modalities if name != own]}
    return [source for word in method for source in meant.get(word, [word])]


def label_sources(method: str, modalities: Sequence[str] = PAIR) -> tuple[str, ...]:
    """Return the label sources of a method: clusters of a modality, of "joint" (all together), or "truth"."""
    needed = {source for sources in heads(method, modalities).values() for source in sources}
    return tuple(source for source in (*modalities, JOINT, TRUTH) if source in needed)


def clustered_sources(method: str, modalities: Sequence[str] = PAIR) -> tuple[str, ...]:
    """Return the label sources that are clusters."""
    return tuple(source for source in label_sources(method, modalities) if source != TRUTH)


def clustered_from(source: str, modalities: Sequence[str] = PAIR) -> tuple[str, ...]:
    """Return the modalities whose features a label source is clustered from."""
    if source == TRUTH:
        return ()
    return tuple(modalities) if source == JOINT else (source,)


def learn_from_each_other(method: str, modalities: Sequence[str] = PAIR) -> bool:
    """Return whether every encoder learns another modality's clusters, and there are clusters of every modality."""
    learned = heads(method, modalities)
    others = all(any(source in learned and source != name for source in of) for name, of in learned.items())
    return others and set(learned) <= set(clustered_sources(method, modalities))
