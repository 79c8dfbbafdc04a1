"""Dotted keys of a recipe."""

from typing import Any

import pytest
import yaml

from fulgurite.search.recipes import find_key, near_keys, with_values

CODEC = {"class_path": "EcqCodec", "init_args": {"states": 8}}


def test_arguments_of_a_class_are_set_without_naming_them() -> None:
    recipe = {"stages": {"ecq": {"codec": CODEC}}}
    changed = with_values(recipe, {"stages.ecq.codec.states": 32, "stages.ecq.refine.steps": 5})
    assert changed["stages"]["ecq"]["codec"]["init_args"] == {"states": 32}
    assert changed["stages"]["ecq"]["refine"] == {"steps": 5}
    assert recipe == {"stages": {"ecq": {"codec": CODEC}}}  # as it was


def test_what_yaml_shares_is_set_in_one_place_only() -> None:
    recipe = yaml.safe_load("one: &stage {codec: {bits: 4}}\ntwo: {<<: *stage}\n")
    assert with_values(recipe, {"two.codec.bits": 2}) == {
        "one": {"codec": {"bits": 4}},
        "two": {"codec": {"bits": 2}},
    }


def test_a_key_through_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="a.b.c: a.b has no keys, it is 3"):
        with_values({"a": {"b": 3}}, {"a.b.c": 1})


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("cascade.codec.states", True),
        ("cascade.codec.init_args.states", True),
        ("cascade.codec.sates", False),
        ("cascade.allocate.budget", None),  # nothing is set there: only the parser knows
        ("cascade.retries.more", False),
    ],
)
def test_keys_are_found(key: str, found: bool | None) -> None:
    resolved: dict[str, Any] = {"cascade": {"codec": CODEC, "allocate": None, "retries": 1}}
    assert find_key(resolved, key) is found


def test_near_keys_are_spelt_as_on_the_command_line() -> None:
    assert near_keys({"cascade": {"codec": CODEC}}, "cascade.codec.sates")[0] == "cascade.codec.states"
