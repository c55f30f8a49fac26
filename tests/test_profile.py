"""What a model costs: how it is counted, on toys. Real models by hand and by torch's profiler: plugins/tests."""

import pytest
import torch
from flexframe_toy.parts import ToyDecoder
from torch import nn

from flexframe.models import profile
from flexframe.models.profile import PARTS, Counter, Uses, build, measure, trial
from flexframe_registry import TokenizerConfig

FP32 = ("fp32",)
LATENTS = {"type": "identity", "channels": 16, "downsample": 8, "range": None}


def config(**parts):
    base = {"encoder": "toy", "quantizer": "toy", "masker": "toy", "decoder": "toy"}
    return TokenizerConfig.read({"size": "tiny", "image_size": 16, "length": 8} | base | parts)


def test_a_codec_is_never_trained():
    (codec, *_), _ = build(config(codec="toy"))[1], None
    assert (codec.kind, codec.trainable) == ("codec", 0)
    assert codec.parameters > 0


def test_what_is_freed_is_not_counted():
    known = torch.zeros(1000)
    with Counter([known]) as live:
        held = torch.ones(250)
        view = held[:10]
        passing = known + 1
        assert live.now == 5000
        del passing
        assert live.now == 1000
        del held
        assert live.now == 1000  # the view keeps it
        del view
        assert (live.now, live.peak) == (0, 5000)


def test_a_training_step_holds_what_the_loop_holds():
    found = measure(config(), uses=("train",), precisions=FP32)
    trainable = sum(part.trainable for part in found.parts)
    rows = found.training("fp32")
    assert rows["gradients"] == 4 * trainable
    assert rows["Adam's moments"] == 8 * trainable
    assert rows["weight average"] == 4 * sum(part.parameters for part in found.parts)
    held = found.weights + rows["Adam's moments"] + rows["weight average"]
    activations = rows["activations after the forward pass"]
    assert held + max(rows["gradients"], activations) <= rows["at once"] <= held + rows["gradients"] + 2 * activations


def test_a_model_without_a_codec_for_its_latents_is_fed_latents():
    found = measure(config(image_size=128, codec=LATENTS), {"steps": 1}, uses=("encode", "decode"), precisions=FP32)
    assert "has no codec" in found.costs["encode", "fp32"].without
    assert "has no codec" in found.costs["decode", "fp32"].without
    assert found.costs["encode", "fp32"].flops["encoder"] > 0


@pytest.mark.slow
def test_a_part_that_fails_is_told_and_the_others_go_on(monkeypatch):
    def fail(self, tokens, **given):
        raise RuntimeError("it is\nbroken")

    monkeypatch.setattr(ToyDecoder, "decode", fail)
    found = measure(config(), {"steps": 1})
    assert found.costs["decode", "fp32"].failed == "RuntimeError: it is broken"
    assert found.costs["decode", "fp32"].flops == {}
    assert found.costs["encode", "fp32"].failed == found.costs["train", "bf16"].failed == ""


def test_uses_need_no_more_than_their_parts():
    parts, _ = build(config())
    uses = Uses(config(), {"decoder": nn.Identity()}, {"encoder": "is not here"}, 1)
    assert uses.run(Uses.encode, ("encoder",), bf16=False).failed == "encoder: is not here"
    assert set(parts) == set(PARTS)


def wrapped_twice(shapes, *rest, out_shape=None, out_val=None):
    """A formula of torch's own, given as a custom one, fails like this."""
    raise TypeError("sdpa_flop() got multiple values for keyword argument 'out_shape'")


BROKEN = {
    "raises": ("_FORMULAS", dict.fromkeys(profile._FORMULAS, wrapped_twice), "TypeError: sdpa_flop() got multiple"),
    "counts nothing": ("_FORMULAS", {}, "count as {'forward': 512.0, 'backward': 512.0} FLOPs and are"),
    "sees no memory": ("Counter._see", lambda self, storage: None, "results of 256 bytes in fp32 count as 0"),
}


def test_counting_is_tried_and_leaves_random_numbers_alone():
    before = torch.get_rng_state()
    assert trial() == ""
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "value", "told"), BROKEN.values(), ids=BROKEN)
def test_where_counting_does_not_work_that_is_the_cause(monkeypatch, name, value, told):
    monkeypatch.setattr(f"flexframe.models.profile.{name}", value)
    assert told in trial()
    assert f"counting does not work with torch {torch.__version__}, whatever the model: " in trial()
    found = measure(config(), {"steps": 1})
    assert {cost.failed for cost in found.costs.values()} == {trial()}
    assert found.parts == tuple(build(config())[1])  # which need no counting


def test_frozen_parts_are_not_trained():
    whole, less = (
        measure(config(), uses=("train",), precisions=FP32, frozen=frozen)
        for frozen in ((), ("encoder", "decoder.blocks.0", "codec"))
    )
    assert [part.trainable for part in less.parts if part.kind == "encoder"] == [0]
    assert 0 < less.parts[-1].trainable < whole.parts[-1].trainable
    assert less.parts[-1].parameters == whole.parts[-1].parameters
    assert less.costs["train", "fp32"].flops["forward"] == whole.costs["train", "fp32"].flops["forward"]
    assert less.costs["train", "fp32"].flops["backward"] < whole.costs["train", "fp32"].flops["backward"]
    assert less.training("fp32")["at once"] < whole.training("fp32")["at once"]


def test_a_fork_of_a_process_that_measured_can_train(python):
    done = python(
        """
        import os, torch
        from flexframe.models.profile import fake_tensors, trial
        assert trial() == ""
        with fake_tensors():
            pass
        child = os.fork()
        if not child:
            torch.ones(2, requires_grad=True).sum().backward()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """.replace("\n        ", "\n")
    )
    assert done.returncode == 0, done.stderr
