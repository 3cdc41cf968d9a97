"""The contenders of a study: the methods, a control and a baseline, by name."""

from typing import Any

# Contender -> settings of its runs, in the order of the paper.
CONTENDERS: dict[str, dict[str, Any]] = {
    "supervised": {"method": "supervised"},
    "sdc": {"method": "sdc"},
    "mdc": {"method": "mdc"},
    "cdc": {"method": "cdc"},
    "cdc-canonical": {"method": "cdc", "cluster.joint": "canonical"},
    "xdc": {"method": "xdc"},
    "shuffled": {"method": "xdc", "train.shuffle_labels": True},
    "xdc-protected": {"method": "xdc", "train.protect": 0.9},
}
# A preset may protect a modality whose teacher knows nothing yet; in a study only the contenders that say so do.
PLAIN = {"train.protect": 0.0}
# It has no run: it is round 0 of the others.
SCRATCH = "scratch"
# With a preset that protects, `xdc-protected` is compared, too.
PROTECTED = "xdc-protected"
DEFAULT = tuple(name for name in CONTENDERS if name != PROTECTED)
# The runs of a study have the same budget, and every contender the same seeds.
COMMON = ("rounds", "seed")


def check_own(own: dict[str, dict[str, Any]]) -> None:
    """Check the contenders that a study names itself.

    Raises:
        ValueError: a name that is taken, or a setting that all runs have in common.
    """
    for name, settings in own.items():
        if name in (*CONTENDERS, SCRATCH):
            raise ValueError(f"own_contenders: {name} is a contender already. Choose another name")
        common = [setting for setting in settings if setting in COMMON or setting.startswith("digits.")]
        if common:
            raise ValueError(
                f"own_contenders: {name} sets {', '.join(common)}, which all runs of a study have in common: leave it "
                "out, or set it for all"
            )
