"""Who supervises whom: the only thing in which the four methods differ (XDC paper, Figure 1).

`supervised` is a baseline beside them: its label source, TRUTH, is a label column of the corpus instead of clusters.
"""

from collections.abc import Callable, Mapping, Sequence

JOINT = "joint"
TRUTH = "truth"
PAIR = ("video", "audio")

# method -> (a modality, all modalities of the run) -> the label sources of its encoder, one head each.
METHODS: Mapping[str, Callable[[str, Sequence[str]], tuple[str, ...]]] = {
    "sdc": lambda own, names: (own,),
    "mdc": lambda own, names: (own, *(name for name in names if name != own)),
    "cdc": lambda own, names: (JOINT,),
    "xdc": lambda own, names: tuple(name for name in names if name != own),
    "supervised": lambda own, names: (TRUTH,),
}


def heads(method: str, modalities: Sequence[str] = PAIR) -> dict[str, tuple[str, ...]]:
    """Return the label sources of every modality's encoder, one head each."""
    return {name: METHODS[method](name, modalities) for name in modalities}


def label_sources(method: str, modalities: Sequence[str] = PAIR) -> tuple[str, ...]:
    """Return what a method learns from: clusters of modalities, of "joint" for all of them together, or "truth"."""
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
