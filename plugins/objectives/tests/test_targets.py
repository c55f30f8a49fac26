"""What objectives must be given, where they have no teacher to make it of images."""

from flexframe_objectives import ProxyCodesConfig, REPAConfig
from flexframe_registry import TargetSpec


def test_proxy_codes_are_a_code_a_cell():
    assert ProxyCodesConfig().targets((2, 3), 7) == {"proxy_codes": TargetSpec((2, 3), below=7)}
    assert ProxyCodesConfig(teacher="grid/maskgit-vqgan").targets((2, 3), 7) == {}


def test_features_are_as_wide_as_is_said():
    assert REPAConfig(teacher=None, dim=5, grid=None).targets((2, 3), 7) == {"repa": TargetSpec((2, 3, 5))}
    assert REPAConfig(teacher=None, dim=5, grid=4).targets((2, 3), 7) == {"repa": TargetSpec((4, 4, 5))}
    assert REPAConfig().targets((2, 3), 7) == {}
