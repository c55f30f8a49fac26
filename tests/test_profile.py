"""What a model costs: against hand counts, published numbers, torch's own bookkeeping, and the real tokenizer."""

import resource
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile
from torch.utils.flop_counter import FlopCounterMode

from flexframe.models import profile
from flexframe.models.profile import PARTS, Live, Meter, Uses, build, measure, trial
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe_registry import TokenizerConfig, cards

TOKENIZERS = [name for name in cards().names() if "encoder" in cards().get(name).file.model]
LATENTS = {"type": "identity", "channels": 16, "downsample": 8, "range": None}


def model_of(name, **parts):
    return TokenizerConfig.read(cards().get(name).model.model_dump(mode="json") | parts)


def config(**parts):
    base = {"encoder": "registers", "quantizer": "fsq", "masker": "pow2", "decoder": "flow"}
    return TokenizerConfig.read({"size": "tiny", "image_size": 16, "length": 8} | base | parts)


# --- parameters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
def test_parameters_are_those_of_the_tokenizer(name):
    with torch.device("meta"):
        model = Tokenizer(cards().get(name).model)
    _, sizes = build(cards().get(name).model)
    assert [size.kind for size in sizes] == list(PARTS)
    assert not any(size.missing for size in sizes)
    assert sum(size.parameters for size in sizes) == sum(p.numel() for p in model.parameters())
    assert sum(size.trainable for size in sizes) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    tensors = [*model.parameters(), *model.buffers()]
    assert sum(size.stored for size in sizes) == sum(t.numel() * t.element_size() for t in tensors)
    assert sum(size.exported for size in sizes) == sum(t.nbytes for t in model.state_dict().values())


def test_a_codec_is_never_trained():
    (codec, *_), _ = build(config(codec="vae"))[1], None
    assert (codec.kind, codec.trainable) == ("codec", 0)
    assert codec.parameters > 0


def test_half_precision_halves_floats_and_leaves_integers():
    _, sizes = build(config(quantizer={"type": "vq", "ema": True}))
    quantizer = next(size for size in sizes if size.kind == "quantizer")
    assert quantizer.stored / 2 < quantizer.halved < quantizer.stored / 2 + 16  # a flag and a counter


# --- FLOPs -------------------------------------------------------------------------------------------------------


def trunk(positions, width, hidden, depth):
    """Multiply-adds as two: four square projections, three of the gated MLP, and two products of attention."""
    return depth * (2 * positions * (4 * width**2 + 3 * width * hidden) + 4 * positions**2 * width)


def test_a_small_flextok_by_hand():
    found = measure(config(), {"steps": 3, "guidance": 2.0}, uses=("pass", "encode", "decode"))
    patches, slots, width, hidden = 16, 8, 64, 170
    embed = 2 * patches * 48 * width
    encoder = embed + trunk(patches + slots, width, hidden, 2)
    assert found.costs["encode", "fp32"].flops == {
        "codec": 0,
        "encoder": encoder,
        "quantizer": 2 * slots * width * 6,
    }
    registers = 2 * slots * 6 * width
    time = 2 * (256 * width + width * width)
    modulation = 2 * width * (3 * 12 * width + 2 * width)
    once = embed + registers + time + modulation + trunk(patches + slots, width, hidden, 3) + 2 * patches * width * 48
    assert found.costs["pass", "fp32"].flops == {"decoder": once}
    # guided: two rows, of which either has registers of its own
    assert found.costs["decode", "fp32"].flops == {"decoder": 3 * 2 * once, "codec": 0}


def test_a_small_titok_by_hand():
    model = model_of("titok/digits-tiny")
    found = measure(model, uses=("encode", "pass", "decode"))
    width, depth, heads_free = model.encoder.width, model.encoder.depth, 12 * model.encoder.width**2
    patch = model.encoder.patch
    patches = (16 // patch) ** 2
    positions = 1 + patches + 8
    blocks = depth * (2 * positions * heads_free + 4 * positions**2 * width)
    convolution = 2 * patches * width * 3 * patch**2
    assert found.costs["encode", "fp32"].flops["encoder"] == blocks + convolution
    decoder = model.decoder
    blocks = decoder.depth * (2 * positions * 12 * decoder.width**2 + 4 * positions**2 * decoder.width)
    pixels = 2 * patches * decoder.width * 3 * decoder.patch**2 + 2 * 16 * 16 * 3 * 3 * 9
    assert found.costs["pass", "fp32"].flops == {"decoder": 2 * 8 * 12 * decoder.width + blocks + pixels}
    assert found.costs["decode", "fp32"].flops["decoder"] == found.costs["pass", "fp32"].flops["decoder"]


@pytest.mark.parametrize(("name", "giga"), [("d12-d12", 97), ("d18-d18", 315), ("d18-d28", 1160)])
def test_published_flextok_passes(name, giga):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = measure(model_of(f"flextok/{name}", codec=LATENTS), uses=("pass",))
    assert found.costs["pass", "fp32"].flops["decoder"] / 1e9 == pytest.approx(giga, rel=0.005)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < found.weights / 4  # nothing is allocated


def test_steps_may_be_of_two_kinds():
    """A schedule that guides only some steps costs what all its steps cost together, run one after the other."""
    model, settings = config(), {"steps": 5, "guidance": ((0.0, 1.0), (0.5, 1.0), (0.6, 3.0))}
    by_step = measure(model, settings, uses=("decode",)).costs["decode", "fp32"].flops["decoder"]
    whole = traced(model, settings, lambda t, tokens: t.decode(tokens)).flops["all"]
    once = measure(model, settings, uses=("pass",)).costs["pass", "fp32"].flops["decoder"]
    assert by_step == pytest.approx(whole, rel=0.01)  # the registers are embedded once a call
    assert by_step / once == pytest.approx(2 * 3 + 2, rel=0.01)


def test_flops_are_for_one_image_and_memory_for_all():
    one, four = (measure(config(), batch_size=n, uses=("encode",)).costs["encode", "fp32"] for n in (1, 4))
    assert one.flops == four.flops
    assert 3.5 < four.peak / one.peak <= 4


# --- attention ---------------------------------------------------------------------------------------------------

FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
ATTENTIONS = {"square": (2, 3, 5, 5, 8), "more queries": (2, 3, 7, 5, 8), "more keys": (1, 4, 2, 9, 16)}


def attended(batch, heads, queries, keys, width, counter, **settings):
    """Operations that an attention ran forward and backward, by name, with what the counter gave for each."""
    tensors = [torch.rand(batch, heads, n, width, requires_grad=True) for n in (queries, keys, keys)]
    with counter:
        F.scaled_dot_product_attention(*tensors, **settings).sum().backward()
    return {str(op).removeprefix("aten."): count for op, count in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("shape", ATTENTIONS.values(), ids=ATTENTIONS)
def test_an_attention_by_hand(shape, masked):
    batch, heads, queries, keys, width = shape
    mask = torch.ones(queries, keys).tril().bool() if masked else None
    product = 2 * batch * heads * queries * keys * width
    found = attended(*shape, Meter((), 1, False).counter, attn_mask=mask)
    assert found == {FORWARD: 2 * product, f"{FORWARD}_backward": 5 * product}


@pytest.mark.parametrize("shape", ATTENTIONS.values(), ids=ATTENTIONS)
def test_an_attention_is_the_plain_products_that_torch_counts(shape):
    """Without a fused kernel it is `bmm`s: two forward, four backward; the fused one computes the scores twice."""
    found = attended(*shape, Meter((), 1, False).counter)
    with sdpa_kernel(SDPBackend.MATH):
        plain = attended(*shape, FlopCounterMode(display=False))
    assert plain.keys() == {"bmm"}
    assert sum(found.values()) == plain["bmm"] + found[FORWARD] / 2


def test_values_may_be_wider_than_keys():
    query, key, value = (2, 3, 7, 8), (2, 3, 5, 8), (2, 3, 5, 6)
    scores, mixture = 2 * 2 * 3 * 7 * 5 * 8, 2 * 2 * 3 * 7 * 5 * 6
    assert profile.attention_flops(query, key, value, 0.0, False, out_shape=None) == scores + mixture
    backward = profile.attention_backward_flops((2, 3, 7, 6), query, key, value, 0.0, False, out_shape=None)
    assert backward == 3 * scores + 2 * mixture


def test_training_a_small_flextok_by_hand():
    """Products of the forward pass are two of the backward, and those of attention two and a half."""
    uses = measure(config(), uses=("encode", "pass", "train")).costs
    flops = uses["train", "fp32"].flops
    assert flops["forward"] == sum(uses["encode", "fp32"].flops.values()) + uses["pass", "fp32"].flops["decoder"]
    attention = 5 * 4 * 24**2 * 64  # five blocks of 24 positions
    inputs = 2 * (2 * 16 * 48 * 64) + 2 * 256 * 64  # of images, noise and time there is no gradient
    assert flops["backward"] == 2 * flops["forward"] + attention / 2 - inputs


# --- memory ------------------------------------------------------------------------------------------------------


def blank(model):
    return torch.empty(1, 3, *model.image_size)


def traced(model, settings, use):
    """Meter of a use of the real composition."""
    with torch.device("meta"):
        tokenizer = Tokenizer(model, settings)
    with FakeTensorMode(allow_non_fake_inputs=True):
        tokenizer.to_empty(device="cpu").eval()
        tokens = tokenizer.tokenized(blank(model))
        meter = Meter([tokenizer], 1, False)
        with meter.live, meter.counter:
            use(tokenizer, tokens)
            meter.mark("all")
    return meter


@pytest.mark.parametrize("name", ["flextok/digits-tiny", "titok/digits-tiny"])
def test_a_use_is_that_of_the_tokenizer(name):
    """The parts are put together here as the tokenizer does it."""
    model, settings = model_of(name, masker="full"), {"steps": 1} if "flextok" in name else {}
    found = measure(model, settings).costs
    encoded = traced(model, settings, lambda t, tokens: t.tokenized(blank(model)))
    assert encoded.flops["all"] == sum(found["encode", "fp32"].flops.values())
    assert encoded.live.peak == pytest.approx(found["encode", "fp32"].peak, rel=0.02)
    decoded = traced(model, settings, lambda t, tokens: t.decode(tokens))
    assert decoded.flops["all"] == sum(found["decode", "fp32"].flops.values())
    assert decoded.live.peak == pytest.approx(found["decode", "fp32"].peak, rel=0.02)

    def step(tokenizer, tokens):
        tokenizer.train()
        rng = Rng(0, torch.arange(1))
        out = tokenizer(Batch(rng.index, blank(model)), rng=rng)
        losses = [loss.mean() for loss in out.losses.values()]
        answers = [each.square().mean() for each in (out.reconstruction, out.logits) if each is not None]
        torch.stack([*losses, *answers]).sum().backward()

    trained = traced(model, settings, step)
    assert trained.flops["all"] == sum(found["train", "fp32"].flops.values())
    assert trained.live.peak == pytest.approx(found["train", "fp32"].peak, rel=0.02)


def allocated(run):
    """The most that torch's allocator held at once, beyond what there was, by torch's profiler."""
    # torch 2.11 warns, once a process, where it is not told to keep events
    with torch_profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("use", ["encode", "decode", "train"])
def test_memory_is_what_is_really_allocated(use, bf16):
    batch, settings = 32, {"steps": 1, "guidance": 2.0}
    model = config(masker="full")
    found = measure(model, settings, batch_size=batch, uses=(use,)).costs[use, "bf16" if bf16 else "fp32"]
    torch.manual_seed(0)
    tokenizer = Tokenizer(model, settings)
    tokens = tokenizer.eval().tokenized(torch.rand(batch, 3, 16, 16))

    def run():
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            if use == "encode":
                tokenizer.tokenized(torch.rand(batch, 3, 16, 16))
            elif use == "decode":
                tokenizer.decode(tokens)
            else:
                rng = Rng(0, torch.arange(batch))
                images = torch.rand(batch, 3, 16, 16)
                loss = tokenizer.train()(Batch(rng.index, images), rng=rng).losses["decoder/flow"].mean()
        if use == "train":
            loss.backward()
            tokenizer.zero_grad(set_to_none=True)

    run()  # what is made on first use, once a process
    assert found.peak == pytest.approx(allocated(run), rel=0.08)


def test_what_is_freed_is_not_counted():
    known = torch.zeros(1000)
    with Live([known]) as live:
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
    found = measure(config(), uses=("train",))
    trainable = sum(part.trainable for part in found.parts)
    rows = found.training("fp32")
    assert rows["gradients"] == 4 * trainable
    assert rows["Adam's moments"] == 8 * trainable
    assert rows["weight average"] == 4 * sum(part.parameters for part in found.parts)
    held = found.weights + rows["Adam's moments"] + rows["weight average"]
    activations = rows["activations after the forward pass"]
    assert held + max(rows["gradients"], activations) <= rows["at once"] <= held + rows["gradients"] + 2 * activations


# --- what cannot be measured -------------------------------------------------------------------------------------


def test_a_missing_library_is_told_and_the_rest_measured(monkeypatch):
    model, uses = config(codec="vae", image_size=32), ("encode", "decode")
    whole = measure(model, {"steps": 1}, uses=uses)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    found = measure(model, {"steps": 1}, uses=uses)
    codec = found.parts[0]
    assert "needs diffusers: pip install" in codec.missing
    assert codec.parameters == 0
    for use in uses:
        cost = found.costs[use, "fp32"]
        assert cost.without == codec.missing
        assert cost.flops == {**whole.costs[use, "fp32"].flops, "codec": 0}
        assert whole.costs[use, "fp32"].flops["codec"] > 0


def test_a_model_without_a_codec_for_its_latents_is_fed_latents():
    found = measure(config(image_size=128, codec=LATENTS), {"steps": 1}, uses=("encode", "decode"))
    assert "has no codec" in found.costs["encode", "fp32"].without
    assert "has no codec" in found.costs["decode", "fp32"].without
    assert found.costs["encode", "fp32"].flops["encoder"] > 0


def test_a_part_that_fails_is_told_and_the_others_go_on(monkeypatch):
    from flexframe_flextok.decoder import FlowDecoder

    def fail(self, tokens, **given):
        raise RuntimeError("it is\nbroken")

    monkeypatch.setattr(FlowDecoder, "decode", fail)
    found = measure(config(), {"steps": 1})
    assert found.costs["decode", "fp32"].failed == "RuntimeError: it is broken"
    assert found.costs["decode", "fp32"].flops == {}
    assert found.costs["encode", "fp32"].failed == found.costs["train", "bf16"].failed == ""


def test_a_number_read_from_data_is_taken_as_nought_and_told():
    found = measure(config(quantizer={"type": "vq", "ema": True, "dead_code_threshold": 0.1}), uses=("encode", "train"))
    assert found.costs["encode", "fp32"].guessed == 0
    assert found.costs["train", "fp32"].guessed > 0  # whether an entry of the codebook is dead
    assert found.costs["train", "fp32"].failed == ""


@pytest.mark.parametrize("quantizer", ["vq", "simvq", "lfq", "bsq", "residual-vq", "residual-fsq", "kl", "none"])
def test_every_quantizer_can_be_measured(quantizer):
    found = measure(config(quantizer=quantizer, decoder="vit"), uses=("encode", "decode", "train"))
    assert [cost.failed for cost in found.costs.values()] == [""] * 6


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
    "sees no memory": ("Live._see", lambda self, storage: None, "results of 256 bytes in fp32 count as 0"),
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
        measure(config(), uses=("train",), frozen=frozen) for frozen in ((), ("encoder", "decoder.blocks.0", "codec"))
    )
    assert [part.trainable for part in less.parts if part.kind == "encoder"] == [0]
    assert 0 < less.parts[-1].trainable < whole.parts[-1].trainable
    assert less.parts[-1].parameters == whole.parts[-1].parameters
    assert less.costs["train", "fp32"].flops["forward"] == whole.costs["train", "fp32"].flops["forward"]
    assert less.costs["train", "fp32"].flops["backward"] < whole.costs["train", "fp32"].flops["backward"]
    assert less.training("fp32")["at once"] < whole.training("fp32")["at once"]
