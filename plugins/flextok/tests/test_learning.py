"""The flow decoder's head and the noise that it must predict."""

import pytest

from flexframe_registry import cards
from flexframe_registry.doubts import obstacles


@pytest.mark.parametrize(("patch", "least"), [(8, "0.667"), (4, None)])
def test_a_head_narrower_than_a_patch_of_noise_is_an_obstacle(patch, least):
    settings = ["image_size=64", f"encoder.patch={patch}", f"decoder.patch={patch}"]
    found = obstacles(cards().get("flextok/digits-tiny").train(settings))
    if least is None:
        assert found == []
        return
    ((place, text),) = found
    assert place == "decoder.width"
    assert "64 is less than the 192 values of a patch (3 x 8 x 8)" in text
    assert f"the loss cannot fall below {least}" in text
    assert "192 or more, or a smaller decoder.patch" in text
