"""Names that moved to the standard plugin stay importable, and say where they went."""

import pytest

import flexframe_lengths
import flexframe_standard


def test_the_old_import_works_and_warns():
    with pytest.warns(DeprecationWarning, match="FullConfig is in flexframe_standard now"):
        from flexframe_lengths import FullConfig
    assert FullConfig is flexframe_standard.FullConfig
    with pytest.raises(AttributeError, match="has no attribute 'Fool'"):
        _ = flexframe_lengths.Fool
