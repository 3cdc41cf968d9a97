"""Retrieval of sounds by pictures and of pictures by sounds, of pairs of which it is known what they share."""

import json
from typing import Any

import numpy as np
import pytest

from shards.errors import ConfigError, StageError
from xdc_core.probes.cca import fit_spaces
from xdc_core.probes.retrieval import held_pairs, retrieve

WAYS = ("video_to_audio", "audio_to_video")
Pairs = tuple[np.ndarray, np.ndarray]


def sharing(shared: np.ndarray, private: float, widths: tuple[int, int] = (20, 12), seed: int = 0) -> Pairs:
    """Features of two widths: random mixtures of what is shared and of ten private factors each. Float32."""
    mixing, rng = np.random.default_rng(5), np.random.default_rng(seed)
    sides = []
    for width in widths:
        factors = np.hstack([shared, rng.normal(size=(len(shared), 10)) * private])
        points = factors @ mixing.normal(size=(factors.shape[1], width))
        sides.append((points + rng.normal(size=points.shape) * 0.05 + 3).astype(np.float32))
    return sides[0], sides[1]


def latent(count: int, seed: int, private: float = 0.5, **kwargs: Any) -> Pairs:
    return sharing(np.random.default_rng(seed).normal(size=(count, 6)), private, seed=seed + 100, **kwargs)


def classes(count: int, seed: int) -> tuple[Pairs, np.ndarray]:
    """Pairs that share nothing but one of ten classes, and the class."""
    labels = np.random.default_rng(seed).integers(10, size=count)
    return sharing(np.random.default_rng(9).normal(size=(10, 6))[labels], 0.5, seed=seed + 100), labels


def values(found: dict[str, Any], kind: str) -> list[float]:
    return [found[way][kind][k] for way in WAYS for k in ("1", "5", "10")]


def test_pairs_that_share_a_lot_find_each_other() -> None:
    found = retrieve(*latent(600, 0, private=0.1), *latent(200, 1, private=0.1), None, seed=0)
    assert min(values(found, "pair")) > 0.95
    assert [found[way]["median_rank"] for way in WAYS] == [1, 1]
    assert found["chance"] == {"pair": {"1": 0.005, "5": 0.025, "10": 0.05}}
    assert found["pairs"] == 200
    assert found["warnings"] == []
    assert "class" not in found["video_to_audio"]


def test_pairs_that_share_nothing_find_each_other_by_chance() -> None:
    rng = np.random.default_rng(0)
    train, test = (tuple(rng.normal(size=(count, 12)).astype(np.float32) for _ in range(2)) for count in (500, 1000))
    found = retrieve(*train, *test, np.arange(1000) % 10, seed=0)
    # Four deviations: of the class it is larger, for neighbouring queries find the same.
    for kind, most in (("pair", 0.016), ("class", 0.08)):
        assert values(found, kind) == pytest.approx([*found["chance"][kind].values()] * 2, abs=most)
    assert 420 < found["video_to_audio"]["median_rank"] < 580


def test_pairs_that_are_mixed_up_in_training_teach_nothing() -> None:
    video, audio = latent(600, 0)
    mixed = retrieve(video, np.roll(audio, 7, axis=0), *latent(200, 1), None, seed=0)
    right = retrieve(video, audio, *latent(200, 1), None, seed=0)
    assert max(values(mixed, "pair")) < 0.15
    assert right["video_to_audio"]["pair"]["10"] > 0.5


def test_where_only_the_class_is_shared_the_class_is_found_and_the_pair_among_it() -> None:
    train, _ = classes(800, 0)
    test, labels = classes(400, 1)
    found = retrieve(*train, *test, labels, seed=0)
    assert min(values(found, "class")) > 0.9
    assert found["chance"]["class"]["1"] == pytest.approx((np.bincount(labels) ** 2).sum() / 400**2)
    # One of about 40 of the class.
    assert max(found[way]["pair"]["1"] for way in WAYS) < 0.1


def test_recall_grows_with_k_and_the_pair_is_of_its_class() -> None:
    train, _ = classes(300, 0)
    test, labels = classes(200, 1)
    found = retrieve(*train, *test, labels, seed=0)
    for way in WAYS:
        assert list(found[way]["pair"].values()) == sorted(found[way]["pair"].values())
        assert all(found[way]["class"][k] >= found[way]["pair"][k] for k in ("1", "5", "10"))


def test_the_two_ways_are_each_others_mirror() -> None:
    train, test = latent(300, 0), latent(100, 1)
    one = retrieve(*train, *test, None, seed=0)
    two = retrieve(*train[::-1], *test[::-1], None, seed=0)
    assert one["video_to_audio"] == two["audio_to_video"]
    assert one["audio_to_video"] == two["video_to_audio"]
    assert one["video_to_audio"] != one["audio_to_video"]


def test_the_same_seed_gives_the_same_and_another_one_holds_out_others() -> None:
    train, test = latent(300, 0), latent(100, 1)
    one, again, other = (retrieve(*train, *test, None, seed) for seed in (0, 0, 1))
    assert one == again
    assert one["chosen"]["tried"] != other["chosen"]["tried"]


def test_the_test_chooses_nothing() -> None:
    train, test = latent(300, 0), latent(100, 1)
    one = retrieve(*train, *test, None, seed=0)
    two = retrieve(*train, test[0], test[1][::-1], None, seed=0)
    assert one["chosen"] == two["chosen"]
    assert one["correlations"] == two["correlations"]
    assert two["video_to_audio"]["pair"]["10"] < one["video_to_audio"]["pair"]["10"] - 0.3


def test_the_ridge_matters_and_is_chosen_well() -> None:
    # More features than pairs: without a ridge everything correlates in training.
    train, test = latent(150, 0, widths=(200, 180)), latent(200, 1, widths=(200, 180))
    chosen = retrieve(*train, *test, None, seed=0)
    loose = retrieve(*train, *test, None, seed=0, ridges=(1e-6,))
    assert chosen["chosen"]["ridge"] >= 1
    assert chosen["video_to_audio"]["pair"]["1"] > loose["video_to_audio"]["pair"]["1"] + 0.1


def test_a_large_ridge_is_not_always_right() -> None:
    # What is shared is the smallest part of both.
    train, test = latent(2000, 0, private=8.0, widths=(40, 40)), latent(200, 1, private=8.0, widths=(40, 40))
    chosen = retrieve(*train, *test, None, seed=0)
    strict = retrieve(*train, *test, None, seed=0, ridges=(100.0,))
    assert chosen["chosen"]["ridge"] < 1
    assert chosen["video_to_audio"]["pair"]["1"] > strict["video_to_audio"]["pair"]["1"] + 0.3


def test_what_was_tried_is_told_and_the_best_is_taken() -> None:
    chosen = retrieve(*latent(300, 0), *latent(100, 1), None, seed=0)["chosen"]
    assert [row["ridge"] for row in chosen["tried"]] == [100, 10, 1, 0.1, 0.01, 0.001]
    reached = {row["ridge"]: row["mean_reciprocal_rank"] for row in chosen["tried"]}
    assert reached[chosen["ridge"]] == max(reached.values()) > min(reached.values())
    assert (chosen["held_out"], chosen["power"]) == (60, 2.0)


def test_the_ridge_is_chosen_on_pairs_that_were_not_learnt() -> None:
    # Unrelated, with more features than pairs: what was learnt finds itself, what was not by chance.
    rng = np.random.default_rng(0)
    train, test = (tuple(rng.normal(size=(count, 80)).astype(np.float32) for _ in range(2)) for count in (60, 50))
    tried = retrieve(*train, *test, None, seed=0, held_out_share=0.5)["chosen"]["tried"]
    # Of 30 the mean is 0.133.
    assert max(row["mean_reciprocal_rank"] for row in tried) < 0.25


def test_the_result_can_be_written_as_json() -> None:
    test, labels = classes(30, 1)
    found = retrieve(*latent(50, 0), *test, labels, seed=0)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("share", "held"), [(0.01, 2), (0.25, 5), (0.99, 18)])
def test_two_pairs_at_least_are_held_out_and_two_are_learnt(share: float, held: int) -> None:
    found = retrieve(*latent(20, 0), *latent(20, 1), None, seed=0, held_out_share=share)
    assert found["chosen"]["held_out"] == held


def test_a_ridge_that_is_almost_nothing_is_possible() -> None:
    # More features than pairs: some variances are 0, or a rounding below.
    sides = latent(30, 0, widths=(60, 60))
    spaces = list(fit_spaces(*sides, [1e-20], power=2))
    assert np.isfinite(spaces[0].correlations).all()
    assert all(np.isfinite(mapped).all() for mapped in spaces[0](*sides))


@pytest.mark.parametrize("side", [0, 1])
def test_features_of_a_collapsed_encoder_give_chance_and_a_warning(side: int) -> None:
    train, test = list(latent(100, 0)), list(latent(40, 1))
    train[side][:], test[side][:] = 0.1, 0.1
    found = retrieve(*train, *test, np.arange(40) % 4, seed=0)
    assert found["video_to_audio"]["pair"] == pytest.approx(found["chance"]["pair"])
    assert found["video_to_audio"]["class"] == pytest.approx(found["chance"]["class"])
    assert found["video_to_audio"]["median_rank"] == 20.5
    assert any("its encoder has collapsed" in warning for warning in found["warnings"])


def test_few_pairs_and_one_label_are_warned_of() -> None:
    found = retrieve(*latent(4, 0), *latent(10, 1), np.zeros(10, int), seed=0)
    assert found["chosen"]["held_out"] == 2
    assert retrieve(*latent(20, 0), *latent(4, 1), None, seed=0)["chance"] == {"pair": {"1": 0.25, "5": 1, "10": 1}}
    assert [warning[:18] for warning in found["warnings"]] == ["only 10 test pairs", "all test clips hav"]
    assert values(found, "class") == [1] * 6
    assert [found[way]["pair"]["10"] for way in WAYS] == [1, 1]
    assert retrieve(*latent(20, 0), *latent(11, 1), np.arange(11) % 2, seed=0)["warnings"] == []


@pytest.mark.parametrize(("side", "name"), enumerate(["training video", "training audio", "test video", "test audio"]))
def test_features_that_are_not_finite_are_refused(side: int, name: str) -> None:
    given = [*latent(20, 0), *latent(10, 1)]
    given[side][3, 2] = np.nan
    with pytest.raises(StageError, match=rf"^1 of \d0 {name} features have .* first is in row 3\."):
        retrieve(*given, None, seed=0)


def test_clips_without_a_label_are_refused() -> None:
    with pytest.raises(StageError, match=r"^2 of 4 test clips have no label; the first is in row 1\."):
        retrieve(*latent(20, 0), *latent(4, 1), np.array([0, -1, 1, -1]), seed=0)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(ConfigError, match="there are 3 training pairs"):
        retrieve(*latent(3, 0), *latent(10, 1), None, seed=0)
    with pytest.raises(ConfigError, match="there is no test pair"):
        retrieve(*latent(20, 0), *latent(0, 1), None, seed=0)


@pytest.mark.parametrize(
    ("side", "shape"), [(0, (19, 20)), (1, (20, 11)), (2, (10, 19)), (3, (9, 12)), (3, (10,)), (4, (9,))]
)
def test_arrays_that_do_not_belong_together_are_refused(side: int, shape: tuple[int, ...]) -> None:
    given = [*latent(20, 0), *latent(10, 1), np.zeros(10, int)]
    given[side] = np.zeros(shape, given[side].dtype)
    with pytest.raises(ValueError, match="which do not match"):
        retrieve(*given, seed=0)


@pytest.mark.parametrize("setting", [{"ridges": ()}, {"ridges": (1.0, 0.0)}, {"power": 0.0}, {"held_out_share": 1.0}])
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="retrieval cannot use"):
        retrieve(*latent(20, 0), *latent(10, 1), None, seed=0, **setting)


def test_with_nothing_held_out_the_middle_ridge_is_taken() -> None:
    ridges = (1e-3, 1.0, 1e-2)
    found = retrieve(*latent(20, 0), *latent(10, 1), None, seed=0, held_out_share=0.0, ridges=ridges)
    assert found["chosen"] == {"ridge": 1e-2, "power": found["chosen"]["power"], "held_out": 0, "tried": []}


def test_canonical_correlations_are_those_of_what_is_shared() -> None:
    # Each side is one shared number with as much noise, and one of its own: their correlation is 1 / (1 + 1).
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(50_000, 1))
    video, audio = (
        np.hstack([shared + rng.normal(size=shared.shape), rng.normal(size=shared.shape) * 30]).astype(np.float32)
        for _ in range(2)
    )
    (space,) = fit_spaces(video, audio, [1e-9], power=2)
    np.testing.assert_allclose(space.correlations, [0.5, 0], atol=0.02)


def test_without_a_ridge_the_maps_make_unit_and_uncorrelated_components_scaled_by_their_correlations() -> None:
    video, audio = latent(500, 0)
    (space,) = fit_spaces(video, audio, [1e-9], power=1)
    mapped = [
        standard(side) @ matrix
        for standard, side, matrix in zip(space.standards, (video, audio), space.maps, strict=True)
    ]
    scale = np.diag(space.correlations**2)
    for own in mapped:
        np.testing.assert_allclose(own.T @ own / 500, scale, atol=1e-3)
    np.testing.assert_allclose(mapped[0].T @ mapped[1] / 500, np.diag(space.correlations**3), atol=1e-3)


def test_whole_recordings_are_held_out_where_there_are_enough() -> None:
    owners = np.repeat(np.arange(10), 5)
    held = held_pairs(owners, 0.2, seed=0)
    assert held.sum() == 10
    assert all(held[owners == owner].all() or not held[owners == owner].any() for owner in range(10))
    assert (held_pairs(owners, 0.2, seed=1) != held).any()


def test_pairs_of_a_single_recording_are_held_out_one_by_one() -> None:
    assert held_pairs(np.zeros(20, int), 0.2, seed=0).sum() == 4
