"""Who supervises whom: the only thing in which the four methods differ (XDC paper, Figure 1).

`supervised` is a baseline beside them: its label source, TRUTH, is a label column of the corpus instead of clusters.
"""

from collections.abc import Mapping

JOINT = "joint"
TRUTH = "truth"

# method -> modality of the encoder -> label sources, one head each.
METHODS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sdc": {"video": ("video",), "audio": ("audio",)},
    "mdc": {"video": ("video", "audio"), "audio": ("audio", "video")},
    "cdc": {"video": (JOINT,), "audio": (JOINT,)},
    "xdc": {"video": ("audio",), "audio": ("video",)},
    "supervised": {"video": (TRUTH,), "audio": (TRUTH,)},
}


def modalities(method: str) -> tuple[str, ...]:
    """The modalities whose encoders a method trains."""
    return tuple(METHODS[method])


def label_sources(method: str) -> tuple[str, ...]:
    """What a method learns from: clusters of the modalities, of "joint" for the concatenation of all, or "truth"."""
    needed = {source for heads in METHODS[method].values() for source in heads}
    return tuple(source for source in (*METHODS[method], JOINT, TRUTH) if source in needed)


def clustered_sources(method: str) -> tuple[str, ...]:
    """The label sources that are clusters."""
    return tuple(source for source in label_sources(method) if source != TRUTH)


def clustered_from(method: str, source: str) -> tuple[str, ...]:
    """The modalities whose features a label source is clustered from."""
    if source == TRUTH:
        return ()
    return modalities(method) if source == JOINT else (source,)
