"""What a model costs: against hand counts, published numbers, torch's own bookkeeping, and the real tokenizer."""

import resource
import sys
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from flexframe.models.profile import PARTS, Meter, build, fake_tensors, measure
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.store.listing import count_parameters
from flexframe.tokens import Batch
from flexframe_registry import TokenizerConfig, cards

pytestmark = pytest.mark.slow

TOKENIZERS = [name for name in cards().names() if "encoder" in cards().get(name).file.model]
FP32 = ("fp32",)
LATENTS = {"type": "identity", "channels": 16, "downsample": 8, "range": None}


def model_of(name, **parts):
    return TokenizerConfig.read(cards().get(name).model.model_dump(mode="json") | parts)


def config(**parts):
    base = {"encoder": "registers", "quantizer": "fsq", "masker": "pow2", "decoder": "flow"}
    return TokenizerConfig.read({"size": "tiny", "image_size": 16, "length": 8} | base | parts)


# --- parameters --------------------------------------------------------------------------------------------------


def said(name):
    """The parameters that a card says; of the toys, which are counted, those that are there."""
    card = cards().get(name)
    return card.file.parameters or (count_parameters(card.described) if name.startswith("toy/") else None)


@pytest.mark.parametrize("name", sorted({*cards().names()} - {*TOKENIZERS}))
def test_cards_of_priors_and_codecs_say_their_parameters(name):
    assert said(name) == count_parameters(cards().get(name).described)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_parameters_are_those_of_the_tokenizer(name):
    with torch.device("meta"):
        model = Tokenizer(cards().get(name).model)
    _, sizes = build(cards().get(name).model)
    assert [size.kind for size in sizes] == list(PARTS)
    assert not any(size.missing for size in sizes)
    assert sum(size.parameters for size in sizes) == sum(p.numel() for p in model.parameters()) == said(name)
    assert sum(size.trainable for size in sizes) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    tensors = [*model.parameters(), *model.buffers()]
    assert sum(size.stored for size in sizes) == sum(t.numel() * t.element_size() for t in tensors)
    assert sum(size.exported for size in sizes) == sum(t.nbytes for t in model.state_dict().values())


def test_half_precision_halves_floats_and_leaves_integers():
    _, sizes = build(config(quantizer={"type": "vq", "ema": True}))
    quantizer = next(size for size in sizes if size.kind == "quantizer")
    assert quantizer.stored / 2 < quantizer.halved < quantizer.stored / 2 + 16  # a flag and a counter


# --- FLOPs -------------------------------------------------------------------------------------------------------


def trunk(positions, width, hidden, depth):
    """Multiply-adds as two: four square projections, three of the gated MLP, and two products of attention."""
    return depth * (2 * positions * (4 * width**2 + 3 * width * hidden) + 4 * positions**2 * width)


def test_a_small_flextok_by_hand():
    found = measure(config(), {"steps": 3, "guidance": 2.0}, uses=("pass", "encode", "decode"), precisions=FP32)
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


def test_training_a_small_flextok_by_hand():
    """Products of the forward pass are two of the backward, and those of attention two and a half."""
    uses = measure(config(), uses=("encode", "pass", "train"), precisions=FP32).costs
    flops = uses["train", "fp32"].flops
    assert flops["forward"] == sum(uses["encode", "fp32"].flops.values()) + uses["pass", "fp32"].flops["decoder"]
    attention = 5 * 4 * 24**2 * 64  # five blocks of 24 positions
    inputs = 2 * (2 * 16 * 48 * 64) + 2 * 256 * 64  # of images, noise and time there is no gradient
    assert flops["backward"] == 2 * flops["forward"] + attention / 2 - inputs


def test_a_small_titok_by_hand():
    model = model_of("titok/digits-tiny")
    found = measure(model, uses=("encode", "pass", "decode"), precisions=FP32)
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
    found = measure(model_of(f"flextok/{name}", codec=LATENTS), uses=("pass",), precisions=FP32)
    assert found.costs["pass", "fp32"].flops["decoder"] / 1e9 == pytest.approx(giga, rel=0.005)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < found.weights / 4  # nothing is allocated


def test_steps_may_be_of_two_kinds():
    """A schedule that guides only some steps costs what all its steps cost together, run one after the other."""
    model, settings = config(), {"steps": 5, "guidance": ((0.0, 1.0), (0.5, 1.0), (0.6, 3.0))}
    by_step = measure(model, settings, uses=("decode",), precisions=FP32).costs["decode", "fp32"].flops["decoder"]
    whole = traced(model, settings, lambda t, tokens: t.decode(tokens)).flops["all"]
    once = measure(model, settings, uses=("pass",), precisions=FP32).costs["pass", "fp32"].flops["decoder"]
    assert by_step == pytest.approx(whole, rel=0.01)  # the registers are embedded once a call
    assert by_step / once == pytest.approx(2 * 3 + 2, rel=0.01)


# --- memory ------------------------------------------------------------------------------------------------------


def blank(model):
    return torch.empty(1, 3, *model.image_size)


def traced(model, settings, use):
    """Meter of a use of the real composition."""
    with torch.device("meta"):
        tokenizer = Tokenizer(model, settings)
    with fake_tensors():
        tokenizer.to_empty(device="cpu").eval()
        tokens = tokenizer.tokenized(blank(model))
        meter = Meter([tokenizer], 1, False)
        with meter.counter:
            use(tokenizer, tokens)
            meter.mark("all")
    return meter


@pytest.mark.parametrize("name", ["flextok/digits-tiny", "titok/digits-tiny"])
def test_a_use_is_that_of_the_tokenizer(name):
    """The parts are put together here as the tokenizer does it."""
    model, settings = model_of(name, masker="full"), {"steps": 1} if "flextok" in name else {}
    found = measure(model, settings, precisions=FP32).costs
    encoded = traced(model, settings, lambda t, tokens: t.tokenized(blank(model)))
    assert encoded.flops["all"] == sum(found["encode", "fp32"].flops.values())
    assert encoded.counter.peak == pytest.approx(found["encode", "fp32"].peak, rel=0.02)
    decoded = traced(model, settings, lambda t, tokens: t.decode(tokens))
    assert decoded.flops["all"] == sum(found["decode", "fp32"].flops.values())
    assert decoded.counter.peak == pytest.approx(found["decode", "fp32"].peak, rel=0.02)

    def step(tokenizer, tokens):
        tokenizer.train()
        rng = Rng(0, torch.arange(1))
        out = tokenizer(Batch(rng.index, blank(model)), rng=rng)
        losses = [loss.mean() for loss in out.losses.values()]
        answers = [each.square().mean() for each in (out.reconstruction, out.logits) if each is not None]
        torch.stack([*losses, *answers]).sum().backward()

    trained = traced(model, settings, step)
    assert trained.flops["all"] == sum(found["train", "fp32"].flops.values())
    assert trained.counter.peak == pytest.approx(found["train", "fp32"].peak, rel=0.02)


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


MANY, SAMPLING = 32, {"steps": 1, "guidance": 2.0}


@cache
def costs(use):
    """In each precision, which are measured together."""
    return measure(config(masker="full"), SAMPLING, batch_size=MANY, uses=(use,)).costs


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("use", ["encode", "decode", "train"])
def test_memory_is_what_is_really_allocated(use, bf16):
    batch, found = MANY, costs(use)[use, "bf16" if bf16 else "fp32"]
    torch.manual_seed(0)
    tokenizer = Tokenizer(config(masker="full"), SAMPLING)
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


# --- what cannot be measured -------------------------------------------------------------------------------------


def test_a_missing_library_is_told_and_the_rest_measured(monkeypatch):
    model, uses = config(codec="vae", image_size=32), {"uses": ("encode", "decode"), "precisions": FP32}
    whole = measure(model, {"steps": 1}, **uses)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    found = measure(model, {"steps": 1}, **uses)
    codec = found.parts[0]
    assert "needs diffusers: pip install" in codec.missing
    assert codec.parameters == 0
    for use in uses["uses"]:
        cost = found.costs[use, "fp32"]
        assert cost.without == codec.missing
        assert cost.flops == {**whole.costs[use, "fp32"].flops, "codec": 0}
        assert whole.costs[use, "fp32"].flops["codec"] > 0


def test_a_number_read_from_data_is_taken_as_nought_and_told():
    found = measure(
        config(quantizer={"type": "vq", "ema": True, "dead_code_threshold": 0.1}),
        uses=("encode", "train"),
        precisions=FP32,
    )
    assert found.costs["encode", "fp32"].guessed == 0
    assert found.costs["train", "fp32"].guessed > 0  # whether an entry of the codebook is dead
    assert found.costs["train", "fp32"].failed == ""


ONE = {"type": "registers", "depth": 1}
"""A layer before the quantizer and one behind it."""


@pytest.mark.parametrize("quantizer", ["vq", "simvq", "lfq", "bsq", "residual-vq", "residual-fsq", "kl", "none"])
def test_every_quantizer_can_be_measured(quantizer):
    """At encoding and in training; decoding takes tokens, and has no quantizer in it."""
    found = measure(config(encoder=ONE, quantizer=quantizer, decoder=ONE | {"type": "vit"}), uses=("encode", "train"))
    assert [cost.failed for cost in found.costs.values()] == [""] * 4


def test_flops_are_for_one_image_and_memory_for_all():
    one, four = (
        measure(config(), batch_size=n, uses=("encode",), precisions=FP32).costs["encode", "fp32"] for n in (1, 4)
    )
    assert one.flops == four.flops
    assert 3.5 < four.peak / one.peak <= 4


def test_a_decoder_that_reads_texts_is_measured_with_the_longest():
    """Of the vectors alone: each adds its projection, and attention to it."""
    read = {"type": "vit", "text": {"width": 16, "length": 8}}
    with_text, without, longer = (
        measure(config(encoder=ONE, decoder=ONE | decoder), precisions=FP32)
        for decoder in (read, {"type": "vit"}, read | {"text": {"width": 16, "length": 12}})
    )
    assert [cost.failed for cost in with_text.costs.values()] == [""] * 4
    for use in ("pass", "decode", "train"):
        plain, short, more = (each.costs[use, "fp32"] for each in (without, with_text, longer))
        assert sum(plain.flops.values()) < sum(short.flops.values()) < sum(more.flops.values())
