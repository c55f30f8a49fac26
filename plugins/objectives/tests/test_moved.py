"""Names that moved to the standard plugin stay importable, and say where they went."""

import pytest

import flexframe_objectives
import flexframe_standard


@pytest.mark.parametrize("name", ["MSEConfig", "L1Config"])
def test_the_old_import_works_and_warns(name):
    with pytest.warns(DeprecationWarning, match=f"{name} is in flexframe_standard now"):
        assert getattr(flexframe_objectives, name) is getattr(flexframe_standard, name)


def test_other_names_are_not_known():
    with pytest.raises(AttributeError, match="has no attribute 'L3Config'"):
        _ = flexframe_objectives.L3Config
