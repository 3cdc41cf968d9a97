"""The factors of audio-visual digits: independent of each other, and rendered as their labels say."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from shards.digits.factors import Factors, Voices, clip_generator, draw_factors, labels_of
from shards.digits.handwriting import Handwriting, load_handwriting
from shards.digits.scene import draw_scene
from shards.digits.settings import SAMPLE_RATE, DigitsSettings
from shards.digits.sound import VOICE_LEVEL, mix_sound
from shards.digits.voice import SPEAKERS, synthesise


@pytest.fixture(scope="module")
def handwriting() -> Handwriting:
    return load_handwriting(21)


def draw_many(count: int, settings: DigitsSettings, handwriting: Handwriting) -> list[Factors]:
    voices = Voices(tuple(SPEAKERS), {})
    return [
        draw_factors(
            clip_generator(settings.seed, "train", index),
            settings,
            lambda digit: handwriting.samples(digit, "train"),
            voices,
        )
        for index in range(count)
    ]


def test_no_factor_tells_anything_about_another(handwriting: Handwriting) -> None:
    """Chi-squared on every pair of factors; of 15 pairs none may fall below one in a thousand."""
    from scipy.stats import chi2_contingency

    settings = DigitsSettings(seed=3)
    rows = [labels_of(factors, settings) for factors in draw_many(600, settings, handwriting)]
    names = ("label", "label_motion", "label_background", "label_speaker", "label_loudness", "label_noise")
    # The background's 36 values are too many for 600 draws: its texture stands for it.
    columns = {name: np.array([row[name].split("-")[0] for row in rows]) for name in names}
    for name, values in columns.items():
        counts = np.unique(values, return_counts=True)[1]
        assert counts.min() > 0.6 * counts.mean(), name
    for one, two in combinations(names, 2):
        table = [
            [np.sum((columns[one] == a) & (columns[two] == b)) for b in np.unique(columns[two])]
            for a in np.unique(columns[one])
        ]
        assert chi2_contingency(table).pvalue > 0.001, (one, two)


def test_sound_matches_picture_except_in_the_share_asked_for(handwriting: Handwriting) -> None:
    plain = draw_many(400, DigitsSettings(), handwriting)
    mixed = draw_many(400, DigitsSettings(mismatched=0.25), handwriting)
    assert all(factors.spoken == factors.digit for factors in plain)
    wrong = [factors for factors in mixed if factors.spoken != factors.digit]
    assert 0.18 < len(wrong) / 400 < 0.32
    assert len({factors.spoken for factors in wrong}) == 10
    # Nothing else of a clip changes.
    assert [(f.digit, f.writing, f.speaker, f.hue) for f in plain] == [
        (f.digit, f.writing, f.speaker, f.hue) for f in mixed
    ]


def test_the_motion_label_says_where_the_digit_goes_and_how_fast(handwriting: Handwriting) -> None:
    settings = DigitsSettings(nuisance=0, fps=20)
    ways = {"right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1)}
    checked = set()
    for factors in draw_many(150, settings, handwriting):
        frames = draw_scene(
            factors,
            handwriting.pictures[factors.writing],
            np.random.default_rng(0),
            frames=4,
            fps=20,
            side=200,
            nuisance=0,
        )
        ink = frames[..., 0].astype(float)
        y, x = (np.einsum("tij,ij->t", ink, axis) / ink.sum((1, 2)) for axis in np.mgrid[0:200, 0:200])
        step = np.array([x[-1] - x[0], y[-1] - y[0]])
        expected = np.array([np.cos(factors.angle), np.sin(factors.angle)]) * factors.speed * 200 * 3 / 20
        if not np.allclose(step, expected, atol=2):
            continue  # It bounced.
        direction, pace = labels_of(factors, settings)["label_motion"].split("-")
        axis, sign = ways[direction]
        assert step[axis] * sign > abs(step[1 - axis]) - 2
        assert (np.hypot(*step) / 30 < 0.5 + 0.1) if pace == "slow" else (np.hypot(*step) / 30 > 0.5 - 0.1)
        checked.add((direction, pace))
    assert len(checked) == 8


def test_the_background_label_names_the_colour_seen(handwriting: Handwriting) -> None:
    settings = DigitsSettings(nuisance=0.5)
    blank = np.zeros((21, 21), np.float32)
    lit = {
        "red": "r",
        "yellow": "rg",
        "green": "g",
        "cyan": "gb",
        "blue": "b",
        "magenta": "rb",
    }
    seen = set()
    for factors in draw_many(60, settings, handwriting):
        frames = draw_scene(
            factors, blank, np.random.default_rng(0), frames=1, fps=8, side=40, nuisance=settings.nuisance
        )
        colour = frames[0].reshape(-1, 3).mean(0)
        name = labels_of(factors, settings)["label_background"].split("-")[1]
        assert "".join(c for c, v in zip("rgb", colour, strict=True) if v > 0.6 * colour.max()) == lit[name]
        assert frames.max() <= 128
        seen.add(name)
    assert seen == set(lit)
    assert labels_of(factors, DigitsSettings(nuisance=0))["label_background"] == "none"


def test_gain_and_noise_are_as_labelled() -> None:
    voice = np.sin(2 * np.pi * 500 * np.arange(18000) / SAMPLE_RATE)  # As long as the clip: it starts at 0.
    for gain_db, snr_db in [(-5.0, 10.0), (0.0, 20.0), (5.0, 30.0)]:
        sound = mix_sound(7 * voice, 18000, gain_db, snr_db, np.random.default_rng(5)).astype(float)
        amplitude = 2 * np.mean(sound * voice)
        noise = sound - amplitude * voice
        assert 20 * np.log10(amplitude / np.sqrt(2) / VOICE_LEVEL) == pytest.approx(gain_db, abs=0.3)
        assert 20 * np.log10(amplitude / np.sqrt(2 * np.mean(noise**2))) == pytest.approx(snr_db, abs=0.3)
    (drawn,) = draw_many(1, DigitsSettings(), load_handwriting(8))
    for gain_db, loudness, snr_db, noisiness in [
        (-5.0, "quiet", 10.0, "noisy"),
        (0.0, "medium", 20.0, "medium"),
        (5.0, "loud", 30.0, "clean"),
    ]:
        labels = labels_of(replace(drawn, gain_db=gain_db, snr_db=snr_db), DigitsSettings())
        assert (labels["label_loudness"], labels["label_noise"]) == (loudness, noisiness)


def test_a_voice_starts_anywhere_and_of_a_long_one_the_loudest_part_is_kept() -> None:
    click = np.zeros(3000)
    click[0] = 1
    starts = {int(np.argmax(mix_sound(click, 18000, 0, 60, np.random.default_rng(seed)))) for seed in range(40)}
    assert min(starts) < 2000
    assert 13000 < max(starts) <= 15000
    long = np.zeros(30000)
    long[20000:21000] = 1
    sound = mix_sound(long, 18000, 0, 60, np.random.default_rng(0))
    assert np.sum(sound > 0.1) == 1000


def test_the_digit_is_heard_in_a_voice_never_heard_before() -> None:
    """A linear classifier on coarse spectrograms, tested on each speaker in turn, trained on the others."""
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    mels = 1127 * np.log1p(np.linspace(0, 8000, 129) / 700)
    edges = np.unique((mels / 150).astype(int), return_index=True)[1]  # Where bands of 150 mel begin.
    features, digits, speakers = [], [], []
    for digit, speaker, _ in product(range(10), SPEAKERS, range(4)):
        voice = synthesise(digit, speaker, generator)
        assert 0.2 * SAMPLE_RATE < len(voice) < SAMPLE_RATE
        windows = np.lib.stride_tricks.sliding_window_view(voice, 256)[::80] * np.hanning(256)
        power = np.add.reduceat(np.abs(np.fft.rfft(windows)) ** 2, edges, axis=1)
        log = np.log(power / power.mean() + 1e-4)
        features.append(np.stack([part.mean(0) for part in np.array_split(log, 12)]).ravel())
        digits.append(digit)
        speakers.append(speaker)
    inputs, targets, who = np.array(features), np.array(digits), np.array(speakers)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    for speaker in SPEAKERS:
        classifier = LogisticRegression(C=0.05, max_iter=300)
        classifier.fit(inputs[who != speaker], targets[who != speaker])
        assert classifier.score(inputs[who == speaker], targets[who == speaker]) >= 0.8, speaker
