"""The settings of clusters and pseudo-labels."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    model_validator,
)

from shards.errors import ConfigError
from shards.section import Positive, Section, Since, hashed_settings
from xdc_core.clustering.clusterer import Clusterer
from xdc_core.clustering.pca import ENOUGH_CLIPS
from xdc_core.clustering.preprocess import CANONICAL
from xdc_core.clustering.registry import CLUSTERERS, KMEANS, KmeansSettings
from xdc_core.config.methods import JOINT
from xdc_core.modalities.registry import BUILT_IN, MODALITIES
from xdc_core.modalities.video import VIDEO


def known_label_sources() -> tuple[str, ...]:
    """Return the label sources that are clusters: every known modality, and "joint"."""
    return (*MODALITIES, JOINT)


def _known_label_source(name: str) -> str:
    if name not in (*BUILT_IN, JOINT) and name not in known_label_sources():
        raise ValueError(f"{name!r} is not a label source")
    return name


LabelSource = Annotated[str, AfterValidator(_known_label_source)]

_Number = Annotated[int, Field(ge=2)]
_NUMBER = TypeAdapter(_Number)


def _not_empty(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if not numbers:  # A least length would also be reported where a number of the list is wrong.
        raise ValueError("[] is not allowed: a list needs at least one number")
    return numbers


_BY_ROUND = TypeAdapter(Annotated[tuple[_Number, ...], AfterValidator(_not_empty)])


def _number_or_by_round(value: Any, handler: Any) -> Any:
    """Check a number or a list of numbers. The errors of a union would name both."""
    return (_BY_ROUND if isinstance(value, list | tuple) else _NUMBER).validate_python(value)


# The number of a label source's clusters; several numbers are those of the first rounds, the last for all later ones.
ClusterCount = Annotated[int | tuple[int, ...], WrapValidator(_number_or_by_round)]


def _by_source(value: Any) -> Any:
    if isinstance(value, int | list | tuple):
        shown = list(value) if isinstance(value, tuple) else value
        raise ValueError(
            f"{shown} is not allowed. Every label source has its own number: write "
            f"{{{', '.join(f'{name}: {shown}' for name in BUILT_IN)}}}; with --set, cluster.k.{VIDEO.name}={shown}"
        )
    return value


def _known_algorithm(name: str) -> str:
    try:
        CLUSTERERS.check(name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None
    return name


class ClusterSettings(Section):
    """Clusters of a modality's features (or of all modalities' together, for the label source `joint`)."""

    algorithm: Annotated[str, AfterValidator(_known_algorithm), Since("0.2.0")] = Field(
        KMEANS.name, description="kmeans, or the clustering algorithm of an installed package"
    )
    algorithm_settings: Annotated[dict[str, Any], Since("0.2.0")] = Field(
        {}, description="settings of another algorithm than kmeans; {}: defaults"
    )

    k: Annotated[dict[LabelSource, ClusterCount], BeforeValidator(_by_source)] = Field(
        {"video": 64, "audio": 128, "joint": 128},
        description="number of clusters by label source; a list: by round, the last number for all later rounds",
    )
    pca: int | None = Field(256, ge=1, description="principal components kept; null: no PCA. Unverified for XDC")
    clips_per_component: Annotated[int | None, Since("0.2.0")] = Field(
        None, ge=1, description="at most one component per so many clips, but eight in any case; null: as pca says"
    )
    whiten: bool = Field(True, description="scale the components to unit variance (needs pca). Unverified for XDC")
    centre: Annotated[bool, Since("0.2.0")] = Field(
        False, description="subtract the mean of the features also without pca, which always does"
    )
    l2: bool = Field(True, description="scale every vector to length 1 before k-means. Unverified for XDC")
    joint_l2: bool = Field(
        True, description="scale every modality to length 1 before concatenation. Unverified for XDC"
    )
    joint: Annotated[Literal["concat", "canonical"], Since("0.2.0")] = Field(
        "concat",
        description="cdc: features side by side; canonical: only axes that the modalities share, see docs/method.md",
    )
    iterations: int = Field(20, ge=1, description="iterations of kmeans (20 in DeepCluster)")
    sample_mb: Positive = Field(
        4096.0, description="k-means trains on all clips if their features fit, else on a random sample of this size"
    )
    iterations_over_all: Annotated[int, Since("0.2.0")] = Field(
        0, ge=0, le=9999, description="further iterations of kmeans over all clips, after those over the sample"
    )
    heads: Annotated[int, Since("0.2.0")] = Field(
        1,
        ge=1,
        description="clusterings per label source with different seeds; an encoder has a head for each and learns the "
        "mean of their losses (3 in DeepCluster-v2, 10 in SeLaVi). Unverified for XDC",
    )

    @model_validator(mode="after")
    def _whitening(self) -> "ClusterSettings":
        if self.whiten and self.pca is None:
            raise ValueError(
                "whiten is true but pca is null: set pca to a number of components, or whiten to false"
                + (" (joint: canonical whitens every modality in any case)" if self.joint == CANONICAL else "")
            )
        return self

    @model_validator(mode="after")
    def _settings_of_the_algorithm(self) -> "ClusterSettings":
        if self.algorithm != KMEANS.name:
            if self.iterations_over_all:
                raise ValueError(f"iterations_over_all is for kmeans, and algorithm is {self.algorithm}: set it to 0")
            try:
                algorithm_of(self)
            except ValidationError as error:
                wrong = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
                raise ValueError(f"algorithm_settings of {self.algorithm}: {'; '.join(wrong)}") from None
        elif self.algorithm_settings:
            raise ValueError("kmeans takes its settings from this section: leave algorithm_settings empty")
        return self


def k_in_round(settings: ClusterSettings, source: str, number: int) -> int | None:
    """Return the number of clusters of a label source in a round; None if the configuration has none for it."""
    k = settings.k.get(source)
    return k[min(number, len(k) - 1)] if isinstance(k, tuple) else k


def algorithm_of(settings: ClusterSettings) -> tuple[Clusterer, Section]:
    """Return the algorithm of a clustering, and its own settings with their defaults.

    Raises:
        ConfigError: the package that gives the algorithm cannot be loaded.
        ValidationError: the algorithm has no such setting, or not such a value.
    """
    clusterer = CLUSTERERS.find(settings.algorithm)
    if clusterer.name != settings.algorithm:  # Its labels are found by the name in kmeans.json.
        raise ConfigError(
            f"the clustering algorithm {settings.algorithm!r} calls itself {clusterer.name!r}. Give its entry point "
            "the same name."
        )
    if clusterer is KMEANS:
        return clusterer, KmeansSettings(iterations=settings.iterations)
    return clusterer, clusterer.settings.model_validate(settings.algorithm_settings)


def clustering_settings(settings: ClusterSettings, joint: bool = False) -> dict[str, Any]:
    """Return the settings of clustering that enter fingerprints, except `k`: those that have an effect.

    joint: on the clusters of all modalities' features together.
    """
    clusterer, own = algorithm_of(settings)
    canonical = joint and settings.joint == CANONICAL
    without = {"k"} if joint else {"k", "joint_l2", "joint"}
    if canonical or settings.pca is not None:
        without.add("centre")  # PCA centres.
    if canonical:
        without.add("whiten")
    elif settings.pca is None:
        without.add("clips_per_component")
    if clusterer is not KMEANS:
        without.add("iterations")
    hashed = hashed_settings(settings, without)
    if canonical:
        hashed["clips_per_component"] = settings.clips_per_component or ENOUGH_CLIPS
    if clusterer is KMEANS:
        return hashed
    return hashed | {"algorithm_version": clusterer.version, "algorithm_settings": hashed_settings(own)}


class LabelSettings(Section):
    """The assignment of clips to clusters. Other settings than `assign` are for `balanced`."""

    assign: Literal["nearest", "balanced"] = Field(
        "nearest",
        description="nearest: the cluster of the nearest centroid; balanced: clusters of about equal size, by optimal "
        "transport (SeLaVi, SwAV; needs kmeans). Unverified for XDC",
    )
    iterations: int = Field(
        50, ge=1, le=9999, description="iterations of Sinkhorn and Knopp; each reads all features once"
    )
    temperature: Positive = Field(
        0.05,
        description="weight of the transport's entropy, as a share of the mean squared distance between two clips: "
        "smaller is closer to equal sizes and needs more iterations (SwAV: 0.05, of vectors of length 1)",
    )
