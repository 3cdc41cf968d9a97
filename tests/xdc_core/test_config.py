"""The configuration: what is refused and in which words, and that a written file says everything."""

import math
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from shards.errors import ConfigError
from xdc_core.config.load import PRESETS, load_config, load_preset, parse_config, preset_names
from xdc_core.config.methods import clustered_sources
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.training.optimiser import learning_rate, peak_rate

SECTIONS = [
    (name, field.annotation)
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
]
ALL_KEYS = [((), key, Config) for key in Config.model_fields] + [
    ((name,), key, section) for name, section in SECTIONS for key in section.model_fields
]


def refusal(values: dict[str, Any]) -> str:
    """The text with which values are refused."""
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "runs/a/xdc.yaml")
    return str(caught.value)


def without_a_letter(word: str) -> str:
    return word[:1] + word[2:]


@pytest.mark.parametrize(("parents", "key", "section"), ALL_KEYS, ids=[".".join([*p, k]) for p, k, _ in ALL_KEYS])
def test_a_mistyped_key_names_the_one_that_was_meant(
    parents: tuple[str, ...], key: str, section: type[BaseModel]
) -> None:
    typo = without_a_letter(key) if len(key) > 3 else key + "s"
    values: dict[str, Any] = {typo: 1}
    for parent in reversed(parents):
        values = {parent: values}
    text = refusal(values)
    assert text.startswith("runs/a/xdc.yaml:\n")
    assert f"{'.'.join([*parents, typo])}: this key is unknown. Did you mean '{key}'?" in text
    assert f"Keys here: {', '.join(section.model_fields)}." in text


def test_a_mistyped_label_source_names_the_one_that_was_meant() -> None:
    text = refusal({"cluster": {"k": {"vidoe": 4, "audio": 4}}})
    assert "cluster.k.vidoe: this key is unknown. Did you mean 'video'? Keys here: video, audio, joint." in text


def test_a_key_like_no_other_lists_those_there_are() -> None:
    text = refusal({"train": {"zzzzzz": 1}})
    assert "train.zzzzzz: this key is unknown. Keys here: clips, batch," in text


def test_all_mistakes_are_told_at_once() -> None:
    text = refusal({"rounds": -1, "method": "abc", "train": {"batch": 0, "lrr": 1}})
    assert [line.split(":")[0].strip() for line in text.splitlines()[1:]] == [
        "method",
        "rounds",
        "train.batch",
        "train.lrr",
    ]


@pytest.mark.parametrize(
    ("values", "where", "allowed"),
    [
        ({"rounds": 1000}, "rounds: 1000", "less than or equal to 999"),
        ({"rounds": 1.5}, "rounds: 1.5", "integer"),
        ({"train": {"schedule": "cosin"}}, "train.schedule: 'cosin'", "'constant', 'cosine' or 'step'"),
        ({"train": {"lr": 0}}, "train.lr: 0", "greater than 0"),
        ({"train": {"warmup": 0.6}}, "train.warmup: 0.6", "less than or equal to 0.5"),
        ({"train": {"lr_per": 0}}, "train.lr_per: 0", "greater than or equal to 1"),
        ({"train": {"clip_gradient": 0}}, "train.clip_gradient: 0", "greater than 0"),
        ({"train": {"decay_on": "most"}}, "train.decay_on: 'most'", "'all', 'weights_and_scales' or 'weights'"),
        ({"train": {"milestones": []}}, "train.milestones: []", "at least 1 item"),
        ({"train": {"milestones": [0.5, 1.0]}}, "train.milestones.1: 1.0", "less than 1"),
        ({"train": {"gamma": 1.5}}, "train.gamma: 1.5", "less than or equal to 1"),
        ({"train": {"own_head_weight": 0}}, "train.own_head_weight: 0", "greater than 0"),
        ({"train": {"precision": "half"}}, "train.precision: 'half'", "'float32' or 'bfloat16'"),
        ({"audio": {"mask_mels": -1}}, "audio.mask_mels: -1", "greater than or equal to 0"),
        ({"train": 3}, "train: 3", "Names and values were expected"),
        ({"modalities": "audio"}, "modalities: 'audio'", "A list was expected, such as [a, b]"),
        ({"cluster": {"k": 8}}, "cluster.k: 8", "write {video: 8, audio: 8}"),
        ({"audio": {"align": "end"}}, "audio.align: 'end'", "'span', 'start' or 'centre'"),
        ({"audio": {"mels": 129}}, "audio.mels: 129", "less than or equal to 128"),
        ({"video": {"short_edges": []}}, "video.short_edges: []", "at least 1 item"),
        ({"video": {"short_edges": [128, "x"]}}, "video.short_edges.1: 'x'", "integer"),
        ({"video": {"std": [0.2, 0, 0.2]}}, "video.std.1: 0", "greater than 0"),
        ({"cluster": {"k": {"video": 1}}}, "cluster.k.video: 1", "greater than or equal to 2"),
        ({"corpus": {"crf": 52}}, "corpus.crf: 52", "less than or equal to 51"),
        ({"runs_on": {"device": "gpu"}}, "runs_on.device: 'gpu'", "'auto', 'cpu' or 'cuda'"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(values: dict[str, Any], where: str, allowed: str) -> None:
    text = refusal(values)
    assert f"\n  {where} is not allowed." in text
    assert allowed in text


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["train.lr", "train.weight_decay", "cluster.sample_mb", "corpus.clip_seconds"])
def test_nan_and_infinity_are_no_numbers(name: str, value: float) -> None:
    section, key = name.split(".")
    assert f"{name}: {value} is not allowed. Input should be a finite number." in refusal({section: {key: value}})


def test_nan_in_a_file_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "xdc.yaml").write_text("train: {lr: .nan}\n")
    with pytest.raises(ConfigError, match=r"xdc.yaml:\n  train.lr: nan is not allowed"):
        load_config(tmp_path / "xdc.yaml")


def test_a_crop_larger_than_the_picture_is_refused() -> None:
    text = refusal({"video": {"crop": 129, "short_edges": [160, 128]}})
    assert "video: crop (129) is larger than the smallest of short_edges (128)." in text
    assert parse_config({"video": {"crop": 128, "short_edges": [160, 128]}}, "x").video.crop == 128


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_weights_that_are_no_file_of_weights_are_refused_with_those_that_are(modality: str) -> None:
    text = refusal({modality: {"weights": "../weights.ckpt"}})
    assert f"\n  {modality}.weights: '../weights.ckpt' is not a file of weights. Allowed: .safetensors" in text
    for name in ("a.safetensors", "/b/c.pth", "../d.pt"):
        assert getattr(parse_config({modality: {"weights": name}}, "x"), modality).weights == name


@pytest.mark.parametrize("milestones", [[0.5, 0.5], [0.6, 0.3], [0.1, 0.9, 0.2]])
def test_milestones_that_do_not_rise_are_refused(milestones: list[float]) -> None:
    shown = ", ".join(f"{share:g}" for share in milestones)
    assert f"train: milestones ({shown}) must rise." in refusal({"train": {"milestones": milestones}})
    assert parse_config({"train": {"milestones": [0.1, 0.2, 0.9]}}, "x").train.milestones == (0.1, 0.2, 0.9)


@pytest.mark.parametrize(("mask", "whole", "size"), [("mask_frames", "frames", 100), ("mask_mels", "mels", 40)])
def test_a_mask_as_long_as_the_view_is_refused(mask: str, whole: str, size: int) -> None:
    text = refusal({"audio": {mask: size}})
    assert f"audio: {mask} ({size}) must be less than {whole} ({size}): some views would be completely masked." in text
    assert getattr(parse_config({"audio": {mask: size - 1}}, "x").audio, mask) == size - 1


def test_whitening_without_pca_is_refused_with_both_ways_out() -> None:
    text = refusal({"cluster": {"pca": None}})
    assert "whiten is true but pca is null" in text
    assert "set pca to a number of components, or whiten to false" in text
    assert parse_config({"cluster": {"pca": None, "whiten": False}}, "x").cluster.pca is None


def test_an_unknown_method_is_told_the_nearest_and_all() -> None:
    wanted = "method: the method 'xcd' is unknown. Did you mean 'xdc'? There are: sdc, mdc, cdc, xdc, supervised."
    assert wanted in refusal({"method": "xcd"})


@pytest.mark.parametrize(("method", "missing"), [("xdc", "video"), ("mdc", "video"), ("cdc", "joint")])
def test_every_label_source_of_the_method_needs_a_k(method: str, missing: str) -> None:
    values = {"method": method, "cluster": {"k": {"audio": 4}}}
    assert f"cluster.k has no entry for {missing}, which method {method} clusters" in refusal(values)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("r2plus1d-18", "is unknown. Did you mean 'r2plus1d_18'? Allowed"),
        ("audio_resnet_18", "is for audio, not for video. Allowed"),
        ("x", "is unknown. Allowed"),
    ],
)
def test_an_encoder_that_is_none_for_video_lists_those_for_video(name: str, why: str) -> None:
    text = refusal({"video": {"encoder": name}})
    assert f"video.encoder: {name!r} {why}: r2plus1d_18, torchvision_r2plus1d_18, r2plus1d_tiny, or package." in text


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_package.encoders:small", "there is no module no_such_package.encoders"),
        ("xdc_core.no_such_module:small", "there is no module xdc_core.no_such_module"),
        ("not a module:small", "is not of the form package.module:function"),
        ("xdc_core.encoders.build:", "is not of the form package.module:function"),
    ],
)
def test_a_function_that_cannot_be_an_encoder_is_refused_before_anything_is_imported(name: str, why: str) -> None:
    text = refusal({"audio": {"encoder": name}})
    assert f"audio.encoder: the encoder {name!r}" in text
    assert why in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: [1, 2\nrounds: 3\n", r"is not valid YAML: .*line 2"),
        ("a:\tb: c\n", "is not valid YAML"),
        ("- 1\n- 2\n", "holds a list, but keys and values were expected"),
        ("just words", "holds a str, but keys and values were expected"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "xdc.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=re.compile(f"{re.escape(str(path))} {message}", re.DOTALL)):
        load_config(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "xdc.yaml").write_bytes(b"rounds: 3 # \xff\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(tmp_path / "xdc.yaml")


def test_a_missing_file_tells_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"xdc init {re.escape(str(tmp_path))}$"):
        load_config(tmp_path / "xdc.yaml")


def test_yaml_that_would_build_objects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "xdc.yaml").write_text("rounds: !!python/object/apply:os.getpid []\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(tmp_path / "xdc.yaml")


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "xdc.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "xdc.yaml") == Config()


def test_a_file_without_a_format_has_the_first_and_one_that_is_written_says_so(tmp_path: Path) -> None:
    file = tmp_path / "xdc.yaml"
    file.write_text("rounds: 2\n")
    assert load_config(file).format == 1
    assert commented_yaml(load_config(file)).startswith("format: 1  # ")


def test_a_file_of_a_newer_format_is_refused_whatever_else_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "xdc.yaml"
    file.write_text("format: 2\nsurprise: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file} has format 2, and this version of xdc reads formats up to 1: ")
    assert "surprise" not in str(caught.value)


@pytest.mark.parametrize("number", [0, "new", None, 1.5])
def test_a_format_that_is_none_is_refused(number: object) -> None:
    with pytest.raises(ConfigError, match=r"format: .* is not allowed"):
        parse_config({"format": number}, "the file")


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"the preset 'tinny' is unknown\. Did you mean 'tiny'\?"):
        load_preset("tinny")
    with pytest.raises(ConfigError, match=r"There are: .*paper-kinetics, .*tiny"):
        load_preset("zzz")


def test_an_unknown_layout_of_the_corpus_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"the layout 'ucf10' is unknown\. Did you mean 'ucf101'\? There are:"):
        parse_config({"corpus": {"layout": "ucf10"}}, "a test")


def test_the_presets_are_there() -> None:
    of_papers = {"deepcluster-recipe", "paper-audioset", "paper-final", "paper-kinetics", "paper-supervised"}
    assert of_papers | {"tiny"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_written_preset_reads_back_the_same(name: str, tmp_path: Path) -> None:
    config = parse_config(load_preset(name), name)
    (tmp_path / "xdc.yaml").write_text(commented_yaml(config, "Two lines\nof notes: with a colon"), encoding="utf-8")
    assert load_config(tmp_path / "xdc.yaml") == config


@pytest.mark.parametrize("name", preset_names())
def test_a_written_preset_explains_every_key(name: str) -> None:
    config = parse_config(load_preset(name), name)
    lines = commented_yaml(config).splitlines()
    assert set(explained(Config, lines)) == {name for name, _ in SECTIONS}
    for section, model in SECTIONS:
        start = lines.index(f"{section}:")
        assert lines[start - 1].removeprefix("# ") == Config.model_fields[section].description
        own = []
        for line in lines[start + 1 :]:
            if not line.startswith("  "):
                break
            own.append(line[2:])
        assert explained(model, own) == []


def explained(model: Any, lines: list[str]) -> list[str]:
    """Keys of the model without a comment behind them. Fails for keys that are not there."""
    bare = []
    for key, field in model.model_fields.items():
        (line,) = [line for line in lines if line.startswith(f"{key}:")]
        assert len(field.description or "") >= 5, f"{key} has no description"
        if f"  # {field.description}" not in line:
            bare.append(key)
        elif typing.get_origin(field.annotation) is typing.Literal:
            assert line.endswith(f" [{' | '.join(map(str, typing.get_args(field.annotation)))}]")
    return bare


@pytest.mark.parametrize(
    "text",
    ["a # b", "a: b", "null", "1.5", "yes", "...", "é 音 …", 'it\'s "so"', " lead", "{x}", "[y", "x" * 1200, "a\nb"],
)
def test_odd_paths_survive_writing_and_reading(text: str, tmp_path: Path) -> None:
    config = parse_config({"corpus": {"path": text, "learn_splits": [text, "b"]}}, "x")
    (tmp_path / "xdc.yaml").write_text(commented_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "xdc.yaml") == config


@pytest.mark.parametrize("number", [1e-5, 1e-12, 123456789.0, 0.1, 3.0])
def test_numbers_survive_writing_and_reading(number: float, tmp_path: Path) -> None:
    config = parse_config({"train": {"lr": number}}, "x")
    (tmp_path / "xdc.yaml").write_text(commented_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "xdc.yaml").train.lr == number


def test_a_configuration_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.lr = 1.0  # type: ignore[misc]


OF_THE_PAPER = ["paper-kinetics", "paper-audioset", "paper-final", "paper-supervised"]
OF_PAPERS = pytest.mark.parametrize("name", [*OF_THE_PAPER, "deepcluster-recipe"])
PUBLISHED = ("VMZ", "DeepCluster", "AudioSet", "the authors' repository", "the authors' demonstration")
REMEMBERED = ("ours", "the paper, from memory")


def leaves(values: dict[str, Any], parents: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value."""
    for key, value in values.items():
        yield from leaves(value, (*parents, key)) if isinstance(value, dict) else [(*parents, key)]


@OF_PAPERS
def test_a_preset_of_a_paper_says_of_every_value_what_is_known_of_it_and_from_where(name: str) -> None:
    lines = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    valued = [line for line in lines if re.match(r" *[a-z_0-9]+: *[^ #]", line)]
    assert len(valued) == len(list(leaves(load_preset(name)))) > 35
    for line in valued:
        found = re.search(r" # (established|inferred|unverified): (.+)", line)
        assert found, f"{name}: nothing is said of {line!r}"
        status, source = found.groups()
        allowed = PUBLISHED if status != "unverified" else PUBLISHED + REMEMBERED
        assert source.startswith(allowed), f"{name}: {line!r} names no source"


@OF_PAPERS
def test_a_preset_of_a_paper_leaves_no_choice_of_its_method_to_a_default(name: str) -> None:
    config, values = parse_config(load_preset(name), name), load_preset(name)
    assert {"method", "rounds"} <= values.keys()
    assert set(clustered_sources(config.method)) <= values["cluster"]["k"].keys()
    # Without a use where no two modalities are put together, or without steps in the schedule.
    unused = {"joint_l2", "own_head_weight"} if config.method == "sdc" else set()
    unused |= {"milestones", "gamma"} if config.train.schedule != "step" else set()
    for section, names in {
        "video": {"encoder", "frames", "short_edges", "crop", "flip", "mean", "std"},
        "audio": {"encoder", "frames", "mels", "align", "mask_frames", "mask_mels"},
        "cluster": {"k", "pca", "whiten", "l2", "joint_l2", "iterations"},
        "train": {
            *{"clips", "batch", "optimizer", "lr", "lr_per", "momentum", "weight_decay", "decay_on", "clip_gradient"},
            *{"warmup", "schedule", "milestones", "gamma", "uniform", "head_std", "own_head_weight"},
            *{"precision", "sync_batch_norm"},
        },
    }.items():
        assert names - unused <= values[section].keys()


def test_the_recipe_of_deepcluster_is_its_clustering_and_its_balanced_draws() -> None:
    config = parse_config(load_preset("deepcluster-recipe"), "x")
    assert config.method == "sdc"
    clustering = config.cluster
    assert (clustering.pca, clustering.whiten, clustering.l2, clustering.iterations) == (256, True, True, 20)
    assert config.train.uniform


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_the_papers_group_has_a_rate_of_a_hundredth_for_32_clips(name: str) -> None:
    values = load_preset(name)
    assert peak_rate(parse_config(values, "x").train) == 0.01
    values["train"]["batch"] = 256
    assert peak_rate(parse_config(values, "x").train) == pytest.approx(0.08)


def test_the_supervised_baseline_is_one_training_with_the_steps_of_vmz() -> None:
    config = parse_config(load_preset("paper-supervised"), "x")
    assert (config.method, config.rounds, config.train.clips) == ("supervised", 1, 35_000_000)
    steps = config.train.clips // config.train.batch
    rates = [learning_rate(step, steps, config.train) for step in range(0, steps, 31250)]  # At the start of an epoch.
    assert rates == pytest.approx([0.01] * 10 + [1e-3] * 10 + [1e-4] * 10 + [1e-5] * 5)


def test_the_final_models_see_longer_and_larger_views_and_nothing_else_is_new() -> None:
    final, before = (parse_config(load_preset(name), "x") for name in ("paper-final", "paper-kinetics"))
    assert (final.video.frames, final.video.crop, final.video.short_edges) == (32, 224, (256, 320))
    assert final.corpus.short_side == max(final.video.short_edges)
    same = {"video": before.video, "cluster": before.cluster, "corpus": before.corpus}
    assert final.model_copy(update=same) == before
