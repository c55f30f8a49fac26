"""The contracts, kind by kind. Each check takes a component and the fields that its config has no default for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flexframe.bench.metric import Metric, Reconstructions, Scratch
from flexframe.data.source import Sample, Source
from flexframe.importing import open_foreign
from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.init import redraw_zeros
from flexframe.parts import LikelihoodPrior, Part, Prior
from flexframe.rng import Rng
from flexframe.tokens import Batch, Codes, Condition, Outputs, Tokens, prefix
from flexframe_registry import CodesSpec, Component, LatentSpec, Spec, TokenizerConfig, TokenSpec, catalogue
from flexframe_registry.kinds import ComponentConfig, ObjectiveConfig, SamplingConfig, SourceConfig

Fields = Mapping[str, Any]
Check = Callable[[Component, Fields], None]

BATCH, LENGTH, CODES, TAP = 4, 8, 64, 20
SIZE = (8, 16)
"""Height and width of images: not square, and as many cells of 4 x 4 as there are tokens, for parts with a grid."""
LATENTS = LatentSpec(3, *SIZE, (0.0, 1.0), images=True)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
ATTEMPTS = 24
"""Training passes within which every dropout branch must have been drawn."""


# --- materials ---------------------------------------------------------------------------------------------------


def tiny(component: Component, fields: Fields) -> Any:
    return component.config.sized("tiny", **fields)


def spec_of(config: ComponentConfig, masked: bool = True) -> Spec:
    """Widths around one part, chosen so that none equals another by accident."""
    features = config.features() if config.kind == "encoder" else 24
    tokens = TokenSpec(LENGTH, 6, 1, CODES)
    if config.kind == "quantizer":
        tokens = config.tokens(LENGTH, features)
    latents = config.latents(*SIZE) if config.kind == "codec" else LATENTS
    taps = dict[str, int]()
    if isinstance(config, ObjectiveConfig):
        taps = dict.fromkeys(config.needs() - {"reconstruction", "logits"}, TAP)
    spec = Spec(latents, features, dataclasses.replace(tokens, masked=masked), taps)
    config.check(spec)
    return spec


def build(component: Component, fields: Fields, masked: bool = True) -> tuple[Any, Spec]:
    """The part at its tiny size, zero-initialised tensors redrawn so that nothing is invisible."""
    config = tiny(component, fields)
    spec = spec_of(config, masked)
    torch.manual_seed(0)
    part = component.load()(config, spec)
    redraw_zeros(part)
    return part.eval(), spec


def rng(batch: int = BATCH, step: int = 0) -> Rng:
    return Rng(1, torch.arange(batch), step)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images() -> Tensor:
    return torch.sigmoid(draw(BATCH, 3, *SIZE))


def tokens(spec: Spec, lengths: Sequence[int], seed: int = 0) -> Tokens:
    keep = prefix(torch.tensor(lengths), spec.tokens.length)
    codes = torch.zeros(len(lengths), spec.tokens.length, 1, dtype=torch.long)
    return Tokens(draw(len(lengths), spec.tokens.length, spec.tokens.dim, seed=seed), keep, codes)


def row(values: Tokens, i: int) -> Tokens:
    return Tokens(values.values[i : i + 1], values.keep[i : i + 1], values.codes[i : i + 1])


def sampling(config: Any) -> SamplingConfig:
    """The decoder's settings; few steps where it takes steps."""
    quick = {"steps": 2} if "steps" in config.sampling.model_fields else {}
    return config.sampling.read(quick)


def decode(decoder: Any, values: Tokens, draws: Rng) -> Tensor:
    size = (decoder.spec.latents.height, decoder.spec.latents.width)
    with torch.no_grad():
        return decoder.decode(values, condition=None, size=size, rng=draws, sampling=sampling(decoder.config))


def assert_gradients(part: nn.Module, unused: Sequence[str], forward: Callable[[int], Tensor]) -> None:
    """Every trainable parameter but the unused gets a finite, non-zero gradient within a few passes."""
    wanting = {name for name, p in part.named_parameters() if p.requires_grad}
    unknown = set(unused) - wanting
    assert not unknown, f"declared unused, but there is no such parameter: {sorted(unknown)}"
    part.train()
    for step in range(ATTEMPTS):
        part.zero_grad(set_to_none=True)
        forward(step).backward()
        for name, parameter in part.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
                if parameter.grad.any():
                    wanting.discard(name)
        if wanting <= set(unused):
            break
    assert wanting <= set(unused), (
        f"no gradient reaches {sorted(wanting - set(unused))}; declare it in `unused`, or use it"
    )
    assert set(unused) <= wanting, f"declared unused, but a gradient reaches {sorted(set(unused) - wanting)}"


def scalar(losses: Mapping[str, Tensor]) -> Tensor:
    for name, loss in losses.items():
        assert loss.shape in ((BATCH,), ()), (
            f"loss {name!r} has shape {tuple(loss.shape)}; a value a sample, or a scalar"
        )
        assert loss.isfinite().all(), f"loss {name!r} is not finite"
    return sum((loss.mean() for loss in losses.values()), start=torch.zeros(()))


# --- every component ---------------------------------------------------------------------------------------------


def check_config_round_trips(component: Component, fields: Fields) -> None:
    """A config survives JSON, is frozen, refuses unknown fields, documents every field, and has its sizes."""
    config = tiny(component, fields)
    assert component.config.model_validate_json(config.model_dump_json()) == config
    for size in component.config.sizes:
        component.config.sized(size, **fields)
    texts = component.config.documentation()
    undocumented = [name for name in component.config.model_fields if name != "type" and name not in texts]
    assert not undocumented, f"fields without a docstring: {undocumented}"
    assert component.config.__doc__, "the config has no docstring"
    assert component.config.model_config.get("extra") == "forbid"
    assert component.config.model_config.get("frozen")


def check_fulfils_its_kind(component: Component, fields: Fields) -> None:
    """The class imports, and is of the kind that its config says."""
    assert isinstance(component.load(), type)


# --- parts of a model --------------------------------------------------------------------------------------------


def check_builds_and_state_dict_round_trips(component: Component, fields: Fields) -> None:
    """Two builds of one config have the same tensors by name and shape, and one loads into the other."""
    one, _ = build(component, fields)
    torch.manual_seed(1)
    other = component.load()(one.config, one.spec)
    assert isinstance(one, Part)
    other.load_state_dict(one.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def check_builds_without_data_on_meta(component: Component, fields: Fields) -> None:
    """A part can be built on the meta device, so that any size can be counted."""
    config = tiny(component, fields)
    with torch.device("meta"):
        part = component.load()(config, spec_of(config))
    assert all(p.is_meta for p in part.parameters())


def check_codec(component: Component, fields: Fields) -> None:
    """Images become latents as the config says, and images again; rows are independent; nothing is trained."""
    codec, spec = build(component, fields)
    given = images()
    with torch.no_grad():
        latents = codec.encode(given, rng=rng())
        assert latents.shape[1:] == (spec.latents.channels, spec.latents.height, spec.latents.width)
        assert torch.equal(latents, codec.encode(given, rng=rng())), "equal seeds gave unequal latents"
        torch.testing.assert_close(codec.encode(given[1:2], rng=rng().rows(torch.tensor([1]))), latents[1:2], **CLOSE)
        assert codec.decode(latents).shape == given.shape


def check_encoder_shape_and_rows(component: Component, fields: Fields) -> None:
    """`b k e`, equal for equal input, and a row does not depend on its batch."""
    encoder, spec = build(component, fields)
    keep = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        found = encoder(images(), keep)
        assert found.shape == (BATCH, LENGTH, spec.features) and found.isfinite().all()
        assert torch.equal(found, encoder(images(), keep))
        torch.testing.assert_close(encoder(images()[2:3], keep[2:3]), found[2:3], **CLOSE)


def check_encoder_absent_slots(component: Component, fields: Fields) -> None:
    """Slots that are absent, or not there at all, change no present one."""
    encoder, _ = build(component, fields)
    full = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    lengths = torch.tensor([1, 3, 5, 8])
    with torch.no_grad():
        found = encoder(images(), full)
        some = encoder(images(), prefix(lengths, LENGTH))
        short = encoder(images(), full[:, :3])
    for i, length in enumerate(lengths):
        torch.testing.assert_close(some[i, :length], found[i, :length], **CLOSE)
    assert short.shape[1] == 3
    torch.testing.assert_close(short, found[:, :3], **CLOSE)


def check_encoder_gradients(component: Component, fields: Fields) -> None:
    encoder, spec = build(component, fields)
    keep, target = torch.ones(BATCH, LENGTH, dtype=torch.bool), draw(BATCH, LENGTH, spec.features)
    assert_gradients(encoder, encoder.config.unused(), lambda step: (encoder(images(), keep) * target).sum())


def check_quantizer_codes(component: Component, fields: Fields) -> None:
    """Codes are in range, and in evaluation values are exactly what `lookup` gives of them."""
    quantizer, spec = build(component, fields)
    values, keep = draw(BATCH, LENGTH, spec.features), torch.ones(BATCH, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        found = quantizer(values, keep, rng=rng())
        assert found.values.shape == (BATCH, LENGTH, spec.tokens.dim) and found.values.isfinite().all()
        assert torch.equal(found.values, quantizer.lookup(found.codes)), "values are not lookup(codes)"
        if spec.tokens.codebook_size is None:
            assert found.codes.shape == found.values.shape and found.codes.is_floating_point()
        else:
            assert found.codes.shape == (BATCH, LENGTH, spec.tokens.codebooks) and found.codes.dtype == torch.long
            assert found.codes.min() >= 0 and found.codes.max() < spec.tokens.codebook_size
            assert len(found.codes.unique()) > 1, "random features all got one code"
        assert torch.equal(found.codes, quantizer(values, keep, rng=rng()).codes), "equal seeds gave unequal codes"


def check_quantizer_rows(component: Component, fields: Fields) -> None:
    """In evaluation a row's codes do not depend on its batch, nor a token's on the other slots."""
    quantizer, spec = build(component, fields)
    values, keep = draw(BATCH, LENGTH, spec.features), torch.ones(BATCH, LENGTH, dtype=torch.bool)
    with torch.no_grad():
        whole = quantizer(values, keep, rng=rng()).codes
        one = quantizer(values[2:3], keep[2:3], rng=rng().rows(torch.tensor([2]))).codes
        short = quantizer(values[:, :3], keep[:, :3], rng=rng()).codes
    torch.testing.assert_close(one, whole[2:3])
    torch.testing.assert_close(short, whole[:, :3])


def check_quantizer_absent_slots(component: Component, fields: Fields) -> None:
    """In training, what stands in absent slots changes no loss, no gradient and no statistic."""
    lengths = torch.tensor([1, 3, 5, 8])
    results = []
    for fill in (0.0, 100.0):
        quantizer, spec = build(component, fields)
        quantizer.train()
        keep = prefix(lengths, LENGTH)
        features = torch.where(keep[..., None], draw(BATCH, LENGTH, spec.features), fill).requires_grad_()
        torch.manual_seed(0)
        found = quantizer(features, keep, rng=rng())
        total = scalar(found.losses) + (found.values * keep[..., None]).square().sum()
        total.backward()
        assert features.grad is not None
        gradients = {n: p.grad for n, p in quantizer.named_parameters() if p.grad is not None}
        buffers = {n: v for n, v in quantizer.state_dict().items() if n not in gradients}
        results.append((total.detach(), features.grad[keep], gradients, buffers))
    torch.testing.assert_close(results[0], results[1], **CLOSE)


def check_quantizer_gradients(component: Component, fields: Fields) -> None:
    """Gradients reach the features and every parameter, and zero features do no harm."""
    quantizer, spec = build(component, fields)
    keep, target = torch.ones(BATCH, LENGTH, dtype=torch.bool), draw(BATCH, LENGTH, spec.tokens.dim, seed=1)
    features = draw(BATCH, LENGTH, spec.features).requires_grad_()

    def forward(step: int) -> Tensor:
        found = quantizer(features, keep, rng=rng(step=step))
        return scalar(found.losses) + (found.values * target).sum()

    assert_gradients(quantizer, quantizer.config.unused(), forward)
    assert features.grad is not None and features.grad.any(), "no gradient reaches the encoder"
    zero = torch.zeros(BATCH, LENGTH, spec.features, requires_grad=True)
    found = quantizer(zero, keep, rng=rng())
    (scalar(found.losses) + (found.values * target).sum()).backward()
    assert zero.grad is not None and zero.grad.isfinite().all(), "zero features give a gradient that is not finite"


def check_masker_draws(component: Component, fields: Fields) -> None:
    """Prefixes of at least one token, seeded, of lengths that the budgets list, and no more slots than there are."""
    masker, spec = build(component, fields)
    budgets = masker.budgets
    assert budgets == tuple(sorted(set(budgets))) and budgets[-1] == LENGTH and budgets[0] >= 1
    assert masker.config.masked == component.config.masked
    for step in range(20):
        kept = masker.draw(64, LENGTH, rng=rng(64, step))
        assert kept.keep.shape == (64, kept.slots) and 1 <= kept.slots <= LENGTH
        lengths = kept.keep.sum(1)
        assert torch.equal(kept.keep, prefix(lengths, kept.slots)), "what is kept is not a prefix"
        assert set(lengths.tolist()) <= set(budgets), "a length was drawn that the budgets do not list"
        again = masker.draw(64, LENGTH, rng=rng(64, step))
        assert torch.equal(kept.keep, again.keep), "equal seeds gave unequal draws"
        some = masker.draw(3, LENGTH, rng=rng(64, step).rows(torch.tensor([5, 9, 60])))
        assert torch.equal(some.keep, kept.keep[[5, 9, 60]]), "a row's draw depends on its batch"
    assert spec.tokens.length == LENGTH


def _train_decoder(decoder: Any, spec: Spec, step: int = 0) -> Outputs:
    batch = Batch(torch.arange(BATCH), latents=images())
    return decoder(tokens(spec, [1, 3, 5, 8]), batch, taps=frozenset(), rng=rng(step=step))


def check_decoder_trains(component: Component, fields: Fields) -> None:
    """Losses a value a sample; what `provides` promises is there; taps that nobody offers are refused."""
    for masked in (True, False):
        decoder, spec = build(component, fields, masked)
        decoder.train()
        offered = decoder.config.provides()
        taps = offered - {"reconstruction", "logits"}
        batch = Batch(torch.arange(BATCH), latents=images())
        out = decoder(tokens(spec, [1, 3, 5, 8]), batch, taps=taps, rng=rng())
        scalar(out.losses)
        assert ("reconstruction" in offered) == (out.reconstruction is not None)
        assert ("logits" in offered) == (out.logits is not None)
        assert set(out.features) == taps
        widths = {name: value.shape[-1] for name, value in out.features.items()}
        assert widths == decoder.config.taps(), f"features have widths {widths}, the config says otherwise"
        assert out.losses or offered, "a decoder has a loss of its own, or something for objectives"
        try:
            decoder(tokens(spec, [8] * BATCH), batch, taps=frozenset({"no such tap"}), rng=rng())
        except ValueError:
            continue
        raise AssertionError("a tap that is not offered was not refused")


def check_decoder_decodes(component: Component, fields: Fields) -> None:
    """Latents of the asked size, equal for equal seeds, and a row does not depend on its batch."""
    for masked in (True, False):
        decoder, spec = build(component, fields, masked)
        given = tokens(spec, [1, 3, 5, 8])
        found = decode(decoder, given, rng())
        assert found.shape == (BATCH, spec.latents.channels, spec.latents.height, spec.latents.width)
        assert found.isfinite().all()
        assert torch.equal(found, decode(decoder, given, rng())), "equal seeds gave unequal latents"
        for i in range(BATCH):
            alone = decode(decoder, row(given, i), rng().rows(torch.tensor([i])))
            torch.testing.assert_close(alone, found[i : i + 1], **CLOSE)


def check_decoder_absent_slots(component: Component, fields: Fields) -> None:
    """What stands in absent slots changes nothing, and neither does leaving them out; present ones do matter."""
    for masked in (True, False):
        decoder, spec = build(component, fields, masked)
        given, other = tokens(spec, [3] * BATCH), tokens(spec, [3] * BATCH, seed=1)
        mixed = torch.where(given.keep[..., None], given.values, 100 * other.values)
        found = decode(decoder, given, rng())
        torch.testing.assert_close(decode(decoder, Tokens(mixed, given.keep, given.codes), rng()), found, **CLOSE)
        torch.testing.assert_close(decode(decoder, given.truncate(3), rng()), found, **CLOSE)
        assert not torch.allclose(decode(decoder, other, rng()), found), "the tokens do not matter"


def check_decoder_gradients(component: Component, fields: Fields) -> None:
    for masked in (True, False):
        decoder, spec = build(component, fields, masked)

        def forward(step: int, decoder: Any = decoder, spec: Spec = spec) -> Tensor:
            out = _train_decoder(decoder, spec, step)
            total = scalar(out.losses)
            for given in (out.reconstruction, out.logits):
                if given is not None:
                    total = total + (given * draw(*given.shape, seed=2)).sum()
            return total

        assert_gradients(decoder, decoder.config.unused(), forward)


def check_objective(component: Component, fields: Fields) -> None:
    """A finite value a sample, with a gradient, from the outputs that it says it needs."""
    objective, _ = build(component, fields)
    needs = objective.config.needs()
    made = {
        "reconstruction": images().requires_grad_() if "reconstruction" in needs else None,
        "logits": draw(BATCH, CODES, 4, 4).requires_grad_() if "logits" in needs else None,
    }
    features = {name: draw(BATCH, 4, 4, TAP).requires_grad_() for name in needs - made.keys()}
    codes = Rng(0, torch.arange(BATCH)).integers("codes", CODES, (16,))
    target = 1 - images()
    batch = Batch(torch.arange(BATCH), target, target, features={"proxy_codes": codes})
    losses = objective(Outputs({}, **made, features=features), batch, step=objective.config.start, rng=rng())
    assert losses, "an objective gives at least one loss"
    scalar(losses).backward()
    for name, value in (made | features).items():
        if value is not None:
            assert value.grad is not None and value.grad.any(), f"needs {name!r}, but no gradient reaches it"


def small_tokenizer() -> Tokenizer:
    """A tiny model with random weights, of the first installed part of each kind and the masker of most budgets."""
    known = catalogue()
    missing = [kind for kind in ("encoder", "quantizer", "decoder", "masker") if not known.names(kind)]
    if missing:
        raise LookupError(f"an allocator is checked with a tokenizer, and no {missing[0]} is installed; install one")
    parts = {kind: known.names(kind)[0] for kind in ("encoder", "quantizer", "decoder")}
    raw = {"size": "tiny", "image_size": tuple(images().shape[2:]), "length": LENGTH, **parts}
    models = [TokenizerConfig.read({**raw, "masker": name}) for name in known.names("masker")]
    torch.manual_seed(0)
    tokenizer = Tokenizer(max(models, key=lambda model: len(model.budgets)))
    tokenizer.sampling = sampling(tokenizer.config.decoder)
    redraw_zeros(tokenizer)
    return tokenizer.eval()


def check_allocator(component: Component, fields: Fields) -> None:
    """Lengths in 1..K, equal for equal seeds; a row depends neither on its batch nor on the order of the images."""
    tokenizer = small_tokenizer()
    config = tiny(component, fields)
    config.check(tokenizer.spec)
    allocator = component.load()(config, tokenizer.spec).eval()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    given = images()
    lengths = allocator.choose(tokenizer, given, rng=rng())
    assert lengths.shape == (BATCH,) and not lengths.is_floating_point()
    assert lengths.min() >= 1 and lengths.max() <= LENGTH
    assert torch.equal(given, images()), "`choose` wrote into the images"
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, before[name]), f"`choose` wrote into the model's {name}"
    assert torch.equal(lengths, allocator.choose(tokenizer, given, rng=rng())), "equal seeds gave unequal lengths"
    for some in ([2], [3, 1], [3, 2, 1, 0]):
        rows = torch.tensor(some)
        alone = allocator.choose(tokenizer, given[rows], rng=rng().rows(rows))
        assert torch.equal(alone, lengths[rows]), "an image's length depends on the batch that it is in"


def check_source(component: Component, fields: Fields) -> None:
    """Images of the asked size, the same at every call, out of range refused, a protocol that is plain data."""
    import json

    source = component.load()(tiny(component, fields), (16, 24))
    assert len(source) > 0
    for i in (0, len(source) - 1):
        sample = source[i]
        assert sample.image.shape == (3, 16, 24) and sample.image.dtype == torch.uint8 and sample.id
        assert torch.equal(sample.image, source[i].image)
    try:
        source[len(source)]
    except IndexError:
        pass
    else:
        raise AssertionError("an index past the end was not refused")
    json.dumps(dict(source.protocol()))


# --- metrics -----------------------------------------------------------------------------------------------------

IMAGES = 8
SAME = {"atol": 1e-6, "rtol": 1e-6, "equal_nan": True}


class Pictures(Source):
    """Random labelled images in memory: the images of a suite."""

    def __init__(self) -> None:
        super().__init__(SourceConfig(type="pictures"), (16, 16))
        draws = Rng(2, torch.arange(IMAGES))
        self.images = draws.integers("images", 256, (3, 16, 16)).byte()
        self.labels = draws.integers("labels", 10).tolist()

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], self.labels[index], f"picture-{index}")

    def protocol(self) -> Mapping[str, Any]:
        return {"made": "at random"}


def reconstructions(source: Pictures, spec: Spec, start: int = 0, stop: int = IMAGES) -> Reconstructions:
    """Images `start` to `stop`, and a noisy form of each that is the same in whatever batch it stands."""
    rows = torch.arange(start, stop)
    draws, width = Rng(3, rows), spec.tokens
    real = source.images[start:stop]
    exact = (real.float() / 255 + 0.2 * draws.normal("noise", real.shape[1:])).clamp(0, 1)
    if width.codebook_size is None:
        codes = draws.normal("codes", (width.length, width.dim))
    else:
        codes = draws.integers("codes", width.codebook_size, (width.length, width.codebooks))
    keep = prefix(1 + rows % width.length, width.length)
    made = Tokens(draws.normal("values", (width.length, width.dim)), keep, codes)
    return Reconstructions(real.clone(), (exact * 255).round().byte(), exact, source.labels[start:stop], made)


def suites(component: Component, fields: Fields) -> list[tuple[Metric, Pictures, Spec]]:
    """The metric over a small suite, for a model of discrete tokens and for one of continuous ones, if it has numbers.

    A metric that is unavailable here (weights that are not at hand, too few images) is asked for nothing more.
    """
    config = tiny(component, fields)
    found = []
    for codebook_size in (CODES, None):
        spec = spec_of(config)
        spec = dataclasses.replace(spec, tokens=dataclasses.replace(spec.tokens, codebook_size=codebook_size))
        source = Pictures()
        metric = component.load()(config, source)
        assert isinstance(metric, Metric)
        why = metric.start(spec).unavailable()
        if why is None:
            found.append((metric, source, spec))
        else:
            assert why == " ".join(why.split()) != "", f"why it is unavailable is one sentence, not {why!r}"
    return found


def check_metric_measures(component: Component, fields: Fields) -> None:
    """Its measures can be named before any image is seen, each by one name."""
    metric = component.load()(tiny(component, fields), Pictures())
    names = [measure.name for measure in metric.measures()]
    assert names and len(names) == len(set(names)), f"measures need a name of their own each, not {names}"
    assert all(measure.label for measure in metric.measures())


def check_metric_numbers(component: Component, fields: Fields) -> None:
    """A number for each measure, per-image values one an image, a protocol that is plain data, nothing written to."""
    import json

    for metric, source, spec in suites(component, fields):
        tally, batch = metric.start(spec), reconstructions(source, spec)
        for name, values in tally.update(batch).items():
            assert values.shape == (IMAGES,), f"{name!r} has shape {tuple(values.shape)}; a value an image"
        found = tally.compute()
        assert set(found) == {measure.name for measure in metric.measures()}, f"`compute` gives {sorted(found)}"
        assert all(type(value) is float for value in found.values()), f"numbers are plain floats, not {found}"
        assert tally.unavailable() is None, "it took part, and then was unavailable"
        json.dumps(dict(tally.protocol()))
        fresh = reconstructions(source, spec)
        for name in ("real", "fake", "exact"):
            assert torch.equal(getattr(batch, name), getattr(fresh, name)), f"`update` wrote into the batch's {name}"
        assert torch.equal(batch.tokens.codes, fresh.tokens.codes), "`update` wrote into the batch's codes"


def check_metric_tallies(component: Component, fields: Fields) -> None:
    """What `start` gives is empty and its own: no tally moves another, whether fed or started beside it."""
    for metric, source, spec in suites(component, fields):
        halves = [reconstructions(source, spec, 0, IMAGES // 2), reconstructions(source, spec, IMAGES // 2)]
        alone = []
        for half in halves:
            tally = metric.start(spec)
            tally.update(half)
            alone.append(dict(tally.compute()))
        beside = [metric.start(spec) for _ in halves]
        for tally, half in zip(beside, halves, strict=True):
            tally.update(half)
        metric.start(spec).update(halves[0])
        for tally, expected in zip(beside, alone, strict=True):
            text = "a tally has other numbers beside others than alone; `reset` must make state of its own"
            torch.testing.assert_close(dict(tally.compute()), expected, **SAME, msg=lambda m, t=text: f"{t}: {m}")


def check_metric_batches(component: Component, fields: Fields) -> None:
    """Numbers depend neither on how images are batched nor on their order."""
    for metric, source, spec in suites(component, fields):
        whole, parts = metric.start(spec), metric.start(spec)
        values = whole.update(reconstructions(source, spec))
        later = parts.update(reconstructions(source, spec, IMAGES // 2))
        first = parts.update(reconstructions(source, spec, 0, IMAGES // 2))
        assert set(first) == set(later) == set(values)
        for name in values:
            torch.testing.assert_close(torch.cat([first[name], later[name]]), values[name], **CLOSE)
        torch.testing.assert_close(dict(parts.compute()), dict(whole.compute()), **SAME)


def check_metric_resumes(component: Component, fields: Fields) -> None:
    """An interrupted tally goes on from what `state` holds, and comes to the same numbers."""
    import io

    for metric, source, spec in suites(component, fields):
        halves = [reconstructions(source, spec, 0, IMAGES // 2), reconstructions(source, spec, IMAGES // 2)]
        scratch = Scratch()
        whole, first, second = metric.start(spec), metric.start(spec, scratch), metric.start(spec, scratch)
        for half in halves:
            whole.update(half)
        first.update(halves[0])
        file = io.BytesIO()
        torch.save(dict(first.state()), file)
        file.seek(0)
        second.restore(torch.load(file, weights_only=True))
        second.update(halves[1])
        text = (
            "an interrupted tally ends at other numbers; name in `tallied` all that `reset` makes and `update` changes"
        )
        expected = dict(whole.compute())
        torch.testing.assert_close(dict(second.compute()), expected, **SAME, msg=lambda m, t=text: f"{t}: {m}")
        assert second.protocol() == whole.protocol(), f"{text}; its protocol is another one too"


# --- priors ------------------------------------------------------------------------------------------------------

CLASSES = 5
LENGTHS = (1, 3, 5, LENGTH)


def build_prior(component: Component, fields: Fields, classes: int | None = CLASSES) -> Any:
    """The prior at its tiny size, over codes and classes whose numbers tell them apart."""
    config, spec = tiny(component, fields), CodesSpec(LENGTH, CODES, 1, classes)
    config.check_codes(spec)
    torch.manual_seed(0)
    prior = component.load()(config, spec)
    redraw_zeros(prior)
    return prior.eval()


def sequences(lengths: Sequence[int] = LENGTHS, rows: Sequence[int] = range(BATCH)) -> tuple[Codes, Condition]:
    """Random codes of these lengths, and their classes; the last row has none."""
    index = torch.tensor(rows)
    drawn = Rng(4, index).integers("codes", CODES, (LENGTH, 1))
    codes = Codes(drawn, prefix(torch.tensor([lengths[i] for i in rows]), LENGTH))
    return codes, Condition(index == BATCH - 1, labels=index % CLASSES)


def check_prior_builds(component: Component, fields: Fields) -> None:
    """With classes or without: two builds have the same tensors, and it can be built on the meta device."""
    for classes in (CLASSES, None):
        one, other = build_prior(component, fields, classes), build_prior(component, fields, classes)
        assert isinstance(one, Prior)
        other.load_state_dict(one.state_dict())
        with torch.device("meta"):
            counted = component.load()(one.config, one.spec)
        assert all(p.is_meta for p in counted.parameters())


def check_prior_losses(component: Component, fields: Fields) -> None:
    """Finite, a value a sample; a row's does not depend on its batch, nor on absent slots; codes and class matter."""
    prior = build_prior(component, fields)
    codes, condition = sequences()
    mixed = Codes(torch.where(codes.keep[..., None], codes.codes, CODES - 1 - codes.codes), codes.keep)
    with torch.no_grad():
        found = prior(codes, condition, rng=rng())
        assert found, "a prior has at least one loss"
        scalar(found)
        torch.testing.assert_close(dict(prior(mixed, condition, rng=rng())), dict(found), **CLOSE)
        for i in range(BATCH):
            alone = prior(*sequences(rows=[i]), rng=rng().rows(torch.tensor([i])))
            row_of = {name: loss[i : i + 1] for name, loss in found.items() if loss.ndim}
            torch.testing.assert_close({name: alone[name] for name in row_of}, row_of, **CLOSE)
        short = Codes(codes.codes[:1, :3], codes.keep[:1, :3])
        given = Condition(condition.null[:1], labels=condition.labels[:1])  # type: ignore[index]
        scalar_of_one = sum(loss.mean() for loss in prior(short, given, rng=rng(1)).values())
        assert torch.as_tensor(scalar_of_one).isfinite(), "fewer slots than the model's length are not taken"
        other = Codes(CODES - 1 - codes.codes, codes.keep)
        assert not torch.equal(scalar(prior(other, condition, rng=rng())), scalar(found)), "the codes do not matter"
        assert not torch.equal(scalar(prior(codes, None, rng=rng())), scalar(found)), "the class does not matter"
    prior.train()
    scalar(prior(codes, condition, rng=rng()))
    scalar(build_prior(component, fields, None)(codes, None, rng=rng()))


def check_prior_gradients(component: Component, fields: Fields) -> None:
    prior = build_prior(component, fields)
    codes, condition = sequences()
    assert_gradients(prior, prior.config.unused(), lambda step: scalar(prior(codes, condition, rng=rng(step=step))))


def check_prior_samples(component: Component, fields: Fields) -> None:
    """Codes in range, as many as asked, equal for equal seeds; a row does not depend on its batch; progress is told."""
    prior = build_prior(component, fields)
    settings, (_, condition) = sampling(prior.config), sequences()
    lengths, told = torch.tensor(LENGTHS), list[int]()

    def run(rows: Sequence[int], draws: Rng, **extra: Any) -> Codes:
        index = torch.tensor(rows)
        given = Condition(condition.null[index], labels=condition.labels[index])  # type: ignore[index]
        return prior.sample(given, lengths[index], rng=draws, sampling=settings, **extra)

    found = run(range(BATCH), rng(), on_token=told.append)
    assert found.codes.shape == (BATCH, LENGTH, 1) and found.codes.dtype == torch.long
    assert torch.equal(found.keep, prefix(lengths, LENGTH)), "lengths are not what was asked"
    present = found.codes[found.keep]
    assert present.min() >= 0 and present.max() < CODES, "a code is out of range"
    assert told and told == sorted(set(told)), f"progress is not told step by step: {told}"
    assert torch.equal(present, run(range(BATCH), rng()).codes[found.keep]), "equal seeds gave unequal codes"
    assert not torch.equal(present, run(range(BATCH), rng(step=1)).codes[found.keep]), "the rng does not matter"
    for some in ([0], [2], [3, 1]):
        alone = run(some, rng().rows(torch.tensor(some)))
        assert alone.keep.shape[1] == max(LENGTHS[i] for i in some), "slots that no row has are there"
        for at, i in enumerate(some):
            kept = alone.codes[at][alone.keep[at]]
            assert torch.equal(kept, found.codes[i][found.keep[i]]), "a row's draws depend on its batch"
    free = prior.sample(None, lengths, rng=rng(), sampling=settings)
    assert free.codes[free.keep].max() < CODES


def check_prior_likelihood(component: Component, fields: Fields) -> None:
    """If it gives likelihoods: probabilities that sum to 1, of tokens given those before them, 0 where absent."""
    prior = build_prior(component, fields)
    if not isinstance(prior, LikelihoodPrior):
        return
    codes, condition = sequences()
    found = prior.log_prob(codes, condition)
    assert found.shape == codes.keep.shape and (found <= 0).all() and found.isfinite().all()
    assert (found[~codes.keep] == 0).all(), "an absent token has a likelihood"
    for slot in (0, LENGTH // 2):
        every = codes.codes[-1:].repeat(CODES, 1, 1)
        every[:, slot, 0] = torch.arange(CODES)
        null = torch.ones(CODES, dtype=torch.bool)
        values = prior.log_prob(Codes(every, torch.ones(CODES, LENGTH, dtype=torch.bool)), Condition(null))
        torch.testing.assert_close(values[:, slot].exp().sum(), torch.ones(()), **CLOSE)
        torch.testing.assert_close(values[:, :slot], values[:1, :slot].expand(CODES, -1), **CLOSE)


# --- importers ---------------------------------------------------------------------------------------------------


def check_importer_recognises_its_own_alone(component: Component, fields: Fields) -> None:
    """A checkpoint of nobody's format, with a config or without, is not taken for one of its own."""
    importer = component.load()(tiny(component, fields))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({"nobody.weight": torch.zeros(2), "nobody.bias": torch.zeros(3)}, path)
        assert not importer.recognises(open_foreign(path))
        path.with_name("config.json").write_text('{"nobody": {"width": 2}, "depth": 3}')
        assert not importer.recognises(open_foreign(path))


PARTS = (check_builds_and_state_dict_round_trips, check_builds_without_data_on_meta)
CHECKS: dict[str, tuple[Check, ...]] = {
    "codec": (*PARTS, check_codec),
    "encoder": (*PARTS, check_encoder_shape_and_rows, check_encoder_absent_slots, check_encoder_gradients),
    "quantizer": (
        *PARTS, check_quantizer_codes, check_quantizer_rows, check_quantizer_absent_slots, check_quantizer_gradients,
    ),
    "masker": (*PARTS, check_masker_draws),
    "decoder": (
        *PARTS, check_decoder_trains, check_decoder_decodes, check_decoder_absent_slots, check_decoder_gradients,
    ),
    "objective": (*PARTS, check_objective),
    "allocator": (*PARTS, check_allocator),
    "source": (check_source,),
    "prior": (
        check_prior_builds, check_prior_losses, check_prior_gradients, check_prior_samples, check_prior_likelihood,
    ),
    "importer": (check_importer_recognises_its_own_alone,),
    "metric": (check_metric_measures, check_metric_numbers, check_metric_tallies, check_metric_batches,
               check_metric_resumes),
}  # fmt: skip


def of(kind: str) -> Sequence[Check]:
    """The checks of a kind."""
    return (check_config_round_trips, check_fulfils_its_kind, *CHECKS[kind])
