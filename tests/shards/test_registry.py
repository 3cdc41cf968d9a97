"""Registries: built-in objects, and those of installed packages, which load when they are asked for."""

import sys
from pathlib import Path

import pytest

from shards.errors import ConfigError
from shards.registry import Registry
from tests.installed_package import install_package


def numbers() -> Registry[int]:
    return Registry("number", "xdc.numbers", {"one": 1, "two": 2}, of=int)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_without_packages_it_is_a_mapping_of_what_is_built_in() -> None:
    registry = numbers()
    assert dict(registry) == {"one": 1, "two": 2}
    assert len(registry) == 2
    assert "three" not in registry
    assert registry.get("three") is None
    assert registry.distribution("one") == ""


def test_an_installed_package_adds_to_it_and_is_loaded_only_when_asked_for(packages: Path) -> None:
    modules = {"numbers_of_others.py": "THREE = 3\n"}
    install_package(packages, "others", modules, {"xdc.numbers": {"three": "numbers_of_others:THREE"}})
    registry = numbers()
    assert list(registry) == ["one", "two", "three"]
    assert "three" in registry
    registry.check("three")
    assert registry.distribution("three") == "others 1.2.3"
    assert "numbers_of_others" not in sys.modules
    assert registry["three"] == registry.find("three") == 3
    assert "numbers_of_others" in sys.modules


def test_an_unknown_name_is_told_the_nearest_and_all(packages: Path) -> None:
    install_package(packages, "others", {}, {"xdc.numbers": {"three": "nowhere:THREE"}})
    with pytest.raises(ConfigError) as error:
        numbers().find("tree")
    assert str(error.value) == "the number 'tree' is unknown. Did you mean 'three'? There are: one, two, three."
    with pytest.raises(KeyError):
        numbers()["tree"]


@pytest.mark.parametrize(
    ("value", "source", "why"),
    [
        ("no_such_module:THREE", "", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken_numbers_a:FOUR", "THREE = 3\n", "AttributeError: module 'broken_numbers_a' has no attribute 'FOUR'"),
        ("broken_numbers_b:THREE", "THREE = 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("broken_numbers_c:THREE", "THREE = 'three'\n", "is an object of type str, but int is needed"),
    ],
)
def test_a_broken_entry_point_is_an_error_with_its_package_only_when_it_is_used(
    packages: Path, value: str, source: str, why: str
) -> None:
    modules = {f"{value.split(':')[0]}.py": source} if source else {}
    install_package(packages, "others", modules, {"xdc.numbers": {"three": value}})
    registry = numbers()
    assert registry.find("two") == 2
    with pytest.raises(ConfigError) as error:
        registry.find("three")
    assert f"the number 'three' of others 1.2.3 (xdc.numbers: {value})" in str(error.value)
    assert why in str(error.value)


def test_a_built_in_name_is_not_overridden_in_silence(packages: Path) -> None:
    install_package(packages, "others", {"more_numbers.py": "ONE = 11\n"}, {"xdc.numbers": {"one": "more_numbers:ONE"}})
    registry = numbers()
    assert list(registry) == ["one", "two"]
    assert registry.find("two") == 2
    with pytest.raises(ConfigError, match=r"the number 'one' is given by xdc and by others 1\.2\.3 .*Rename"):
        registry.find("one")


def test_two_packages_that_give_one_name_are_both_named(packages: Path) -> None:
    for name in ("first", "second"):
        install_package(packages, name, {}, {"xdc.numbers": {"three": f"{name}_numbers:THREE"}})
    with pytest.raises(ConfigError, match=r"given by \w+ 1\.2\.3 and by \w+ 1\.2\.3"):
        numbers().find("three")
