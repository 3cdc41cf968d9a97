"""Whatever stands in a configuration file: it is a configuration, or a ConfigError says what is wrong with it."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import ConfigError
from xdc_core.config.load import EVALUATIONS_FILE, FILE_NAME, load_config, parse_config
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml

EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
GOOD = commented_yaml(Config())
LINES = [line for line in GOOD.splitlines() if line.strip() and not line.lstrip().startswith("#")]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(), st.binary(max_size=4)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(max_size=5), st.integers()), inner, max_size=3)
    ),
    max_leaves=6,
)


def loads_or_says_why(content: bytes, asked: bytes | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        path.write_bytes(content)
        if asked is not None:
            path.with_name(EVALUATIONS_FILE).write_bytes(asked)
        config, refusal = None, ""
        try:
            config = load_config(path)
        except ConfigError as error:
            refusal = str(error)
        assert isinstance(config, Config) or str(path.parent) in refusal
        assert len(refusal) < 100_000


@EXAMPLES
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes(content: bytes) -> None:
    loads_or_says_why(content)


@EXAMPLES
@given(st.data())
def test_a_good_file_with_a_line_that_is_not(data: st.DataObject) -> None:
    line = data.draw(st.sampled_from(LINES))
    value = data.draw(
        st.one_of(VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True)), st.text(max_size=20))
    )
    changed = line.split(":")[0] + ": " + value.replace("...\n", "").replace("\n", " ")
    loads_or_says_why(GOOD.replace(line, changed).encode("utf-8", "replace"))


@EXAMPLES
@given(VALUES, VALUES)
def test_any_structure_and_any_evaluations_beside_it(values: Any, asked: Any) -> None:
    loads_or_says_why(yaml.safe_dump(values).encode(), yaml.safe_dump({"evaluate": asked}).encode())


@EXAMPLES
@given(st.dictionaries(st.sampled_from(list(Config.model_fields)), VALUES, max_size=3))
def test_any_values_of_the_keys_that_there_are(values: dict[str, Any]) -> None:
    config, refusal = None, ""
    try:
        config = parse_config(values, "the test's")
    except ConfigError as error:
        refusal = str(error)
    assert isinstance(config, Config) or "the test's" in refusal


@pytest.mark.parametrize(
    "text",
    [
        "seed: 2001-99-99",
        "seed: !!bool x",
        "seed: !!int ''",
        "seed: !!timestamp x",
        "seed: !!python/object/apply:os.system ['true']",
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
        "[" * 5000,
        "evaluate: [1, 2]",
        "a: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nrounds: [*c,*c,*c,*c,*c,*c]",
    ],
)
def test_texts_that_yaml_itself_stumbles_over(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        path.write_text(text)
        path.with_name(EVALUATIONS_FILE).write_text("evaluate: {}")
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert len(str(caught.value)) < 5000


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path / FILE_NAME)
