"""Components by (kind, name)."""

from typing import Literal

import pytest

from flexframe_registry import Catalogue, Component, ConfigError, MaskerConfig, QuantizerConfig, UnknownName, catalogue


class RoundConfig(QuantizerConfig):
    type: Literal["round"] = "round"


class NamelessConfig(QuantizerConfig):
    pass


class WrongMaskerConfig(MaskerConfig):
    type: Literal["wrong"] = "wrong"


def test_two_providers_of_one_name_are_both_named():
    twice = [Component(RoundConfig, "a:A", "alpha 1.0"), Component(RoundConfig, "b:B", "beta 2.0")]
    with pytest.raises(ValueError, match=r"quantizer 'round' is provided by both alpha 1\.0 and beta 2\.0"):
        Catalogue(twice)


def test_one_name_may_serve_two_kinds():
    class Masker(MaskerConfig):
        type: Literal["round"] = "round"

    found = Catalogue([Component(RoundConfig, "a:A"), Component(Masker, "b:B")])
    assert found.get("quantizer", "round").target == "a:A"
    assert found.get("masker", "round").target == "b:B"


def test_an_unknown_name_is_answered_with_the_nearest_and_the_known():
    with pytest.raises(UnknownName, match=r"no quantizer named 'rund'\. Did you mean 'round'\? Known: round"):
        Catalogue([Component(RoundConfig, "a:A")]).get("quantizer", "rund")


def test_a_name_of_another_kind_is_unknown():
    with pytest.raises(UnknownName, match=r"no decoder named 'round'.* Known: none is installed"):
        Catalogue([Component(RoundConfig, "a:A")]).get("decoder", "round")


def test_kind_and_name_follow_from_the_config():
    component = Component(RoundConfig, "a:A")
    assert (component.kind, component.name) == ("quantizer", "round")


def test_a_config_without_a_name_is_refused():
    with pytest.raises(TypeError, match="NamelessConfig needs `type: Literal"):
        Catalogue([Component(NamelessConfig, "a:A")])


def test_the_class_is_checked_against_its_kind_when_it_is_loaded():
    wrong = Component(WrongMaskerConfig, "flexframe_standard.codec:IdentityCodec", "alpha 1.0")
    with pytest.raises(ConfigError, match=r"masker 'wrong' of alpha 1\.0: .* is no LengthMasker; its author has"):
        wrong.load()


def test_every_installed_component_has_a_provider_and_the_lot_is_whole():
    assert catalogue().broken == ()
    assert {"flexframe", "flexframe-toy"} <= {c.provider.split(" ")[0] for c in catalogue()}


def test_a_component_is_built_from_its_config_alone():
    from flexframe_standard.sources.digits import Digits

    config = catalogue().get("source", "digits").config.read({"split": "val"})
    assert catalogue().of(config).name == "digits"
    assert isinstance(catalogue().build(config, (8, 8)), Digits)
