"""README.md of an export: the model card."""

from collections import Counter
from collections.abc import Sequence

from shards.corpus.index import read_whole_index
from shards.errors import StageError
from shards.store.manifest import read_manifest
from xdc_core.documents.report import read_report
from xdc_core.documents.results import headline
from xdc_core.exports.config import ExportConfig, JointConfig
from xdc_core.graph.run_stage import reuse
from xdc_core.inspection.results import read_results
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

HEAD = """---
# Fill in the licence of these weights: it depends on the videos, too. See huggingface.co/docs/hub/repositories-licenses
license: other
license_name: to-be-filled-in
library_name: xdc
pipeline_tag: feature-extraction
tags:
- self-supervised
- deep-clustering
- {modality}
---
"""
LIMITS = """## Limits

- Learnt from the videos above only: features of other material may be worse. Nothing was checked for bias.
- The input must be made with the settings in `config.json`. Other frame rates, sample rates, means or log-mels give
  other features, without an error if the input is made by other code.
- Clusters are numbered, not named: their numbers say nothing, and differ from run to run.
- On another machine features may differ by rounding.
"""


def encoder_card(run: Run, config: ExportConfig) -> str:
    """Return the text of an encoder's README.md. It holds no paths of the machine."""
    lines = [
        HEAD.format(modality=config.modality),
        f"# {config.encoder} ({config.modality}), {config.method}, round {config.round}",
        "",
        f"An encoder of {'sound' if config.modality == 'audio' else config.modality} that maps a clip to a feature: "
        f"float32 [{config.width}]; {config.parameters:,} parameters.",
        "",
        "```python",
        "from xdc_core.exports.load import feature",
        "",
        f'feature("clip.mp4", "PATH/TO/{config.modality}")  # float32 [{config.width}]',
        "```",
        "",
        *_method(run, config),
        *_data(run),
        *_metrics(run, config),
        "## Clusters",
        "",
        _clusters(config),
        "",
        LIMITS,
    ]
    return "\n".join(lines)


def whole_card(run: Run, folders: Sequence[str], number: int) -> str:
    """Return the text of the README.md of a whole export."""
    rows = "\n".join(f"- [{name}/]({name}/README.md)" for name in folders)
    return (
        HEAD.format(modality="video" if "video" in folders else folders[0])
        + f"# Encoders of the run {run.root.resolve().name}, {run.config.method}, round {number}\n\n"
        f"Each folder is complete by itself, and its README.md says more:\n\n{rows}\n"
    )


def joint_card(run: Run, config: JointConfig) -> str:
    """Return the text of the README.md of joint clusters."""
    names = " and ".join(config.encoders)
    shas = "\n".join(f"- `{modality}`: {sha256}" for modality, sha256 in config.encoders.items())
    return (
        f"# Joint clusters, {config.method}, round {config.round}, of the run {config.run}\n\n"
        f"`clusters/` are {config.clusters.k} clusters of the concatenated features of {names}, "
        f"by {config.clusters.algorithm}. They need both features of a clip, by these encoders (sha256 of "
        f"`model.safetensors` in the folders beside this one):\n\n{shas}\n"
    )


def _method(run: Run, config: ExportConfig) -> list[str]:
    first = read_manifest(run.directory(Node("init", config.modality)))
    start = "random weights"
    if getattr(run.config, config.modality).weights:
        start = "weights from a file"
    elif first and first.summary.get("pretrained"):
        start = f"the pretrained weights of {config.encoder}"
    rounds = "1 round" if config.round == 1 else f"{config.round} rounds"
    trained = f"after {rounds} of training" if config.round else "before any training"
    if run.config.last_training == "from_first" and config.round == run.config.last_round:
        trained = "trained once, from the first encoders, on the last round's clusters"
    return [
        "## Method",
        "",
        f"Method `{config.method}` (Cross-Modal Deep Clustering, Alwassel et al., NeurIPS 2020), run `{config.run}`, "
        f"seed {run.config.seed}. The encoder started from {start} and is the one {trained}.",
        "",
    ]


def _data(run: Run) -> list[str]:
    lines = ["## Data", ""]
    manifest = read_manifest(run.corpus)
    if manifest is None:
        return [*lines, "The corpus was not there when this was exported.", ""]
    try:
        table = read_whole_index(run.corpus, ["source", "split"])
    except (OSError, StageError):
        return [*lines, f"{manifest.rows:,} clips.", ""]
    splits = Counter(split or "" for split in table["split"].to_pylist())
    learnt = run.config.corpus.learn_splits
    lines.append(
        f"{manifest.rows:,} clips ({manifest.summary['hours']} hours) of {len(table['source'].unique()):,} files. "
        f"Learnt from {'every clip' if learnt is None else 'the splits ' + ', '.join(learnt)}."
    )
    if set(splits) != {""}:
        counts = (f"{name or 'without a split'}: {count:,}" for name, count in sorted(splits.items()))
        lines.append(f"Clips by split: {'; '.join(counts)}.")
    return [*lines, ""]


def _metrics(run: Run, config: ExportConfig) -> list[str]:
    """Return what was measured of this round's clusters and encoders."""
    rows = []
    node = Node("report", None, config.round)
    if reuse(run, node) is not None:
        source = read_report(run.directory(node)).sources.get(config.modality)
        for column, agreement in (source.agreement if source else {}).items():
            for name in ("nmi", "purity"):
                if (value := agreement.content().get(name)) is not None:
                    rows.append(f"| clusters against the column `{column}` | {name} | {value:.3f} |")
    for results in read_results([run]):
        metric = headline(results.protocol, results.metrics)
        measured = results.metrics.get(metric)
        mine = results.round == config.round and results.modality in (None, config.modality) and not results.stale
        if mine and measured and measured.mean is not None:
            spread = f" ± {measured.sd:.3f} (n={measured.n})" if measured.sd is not None else ""
            rows.append(
                f"| evaluation `{results.evaluation}` ({results.protocol}) | {metric} | {measured.mean:.3f}{spread} |"
            )
    if not rows:
        return ["## Metrics", "", "Nothing was measured of this round.", ""]
    return ["## Metrics", "", "| what | metric | value |", "|---|---|---|", *rows, ""]


def _clusters(config: ExportConfig) -> str:
    if config.clusters is None:
        return f"There are none: {config.without_clusters}."
    own = config.clusters
    return (
        f"`clusters/` are the {own.k} clusters of this encoder's features, by {own.algorithm}: the centroids, and the "
        "preprocessing (`preprocess.npz`) of features before they are compared with them."
    )
