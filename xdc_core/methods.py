"""Who supervises whom: the only thing in which the four methods differ (XDC paper, Figure 1)."""

from collections.abc import Mapping

JOINT = "joint"

# method -> modality of the encoder -> label sources, one head each.
METHODS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sdc": {"video": ("video",), "audio": ("audio",)},
    "mdc": {"video": ("video", "audio"), "audio": ("audio", "video")},
    "cdc": {"video": (JOINT,), "audio": (JOINT,)},
    "xdc": {"video": ("audio",), "audio": ("video",)},
}


def modalities(method: str) -> tuple[str, ...]:
    """The modalities whose encoders a method trains."""
    return tuple(METHODS[method])


def label_sources(method: str) -> tuple[str, ...]:
    """What a method clusters: the modalities, or "joint" for the concatenation of all."""
    needed = {source for heads in METHODS[method].values() for source in heads}
    return tuple(source for source in (*METHODS[method], JOINT) if source in needed)


def clustered_from(method: str, source: str) -> tuple[str, ...]:
    """The modalities whose features a label source is clustered from."""
    return modalities(method) if source == JOINT else (source,)
