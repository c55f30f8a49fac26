"""Where a result of real parts comes from."""

from flexframe import provenance


def test_versions_name_every_plugin_and_the_libraries_that_they_require():
    assert {
        "flexframe-flextok",
        "flexframe-quantizers",
        "vector-quantize-pytorch",
        "timm",
    } <= provenance.versions().keys()
