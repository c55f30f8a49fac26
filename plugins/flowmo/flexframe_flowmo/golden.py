"""FlowMo's golden cases: tensors that the reference computed, and what a model made from its checkpoint gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import Comparison, Foreign, compare
from flexframe.models.build import Model
from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.times import sinusoid
from flexframe.rng import Rng
from flexframe.testing import cases
from flexframe.testing.cases import watched
from flexframe.testing.tables import TableRng
from flexframe.tokens import Batch, Tokens

from . import MMDiTSampling
from .blocks import JointBlock, patched, turns_of

SAMPLES = 5e-5
"""Of chains of steps."""
ANGLES = 1.2e-4
"""Of sines of angles up to 1000, which single precision has to a step of 6e-5, so that two processors differ."""
LOSSES = 1e-5
"""Of losses, absolute and as a share of the largest."""


class Case(cases.Case):
    """A case of FlowMo's, which knows the order of the file's channels."""

    def __init__(self, path: Path, source: Foreign, model: Tokenizer) -> None:
        from .importer import channels  # which uses this module

        super().__init__(path, source, model)
        quantizer: Any = model.config.quantizer
        self.order = channels(quantizer.bits, quantizer.codebooks)

    def theirs(self, values: Tensor) -> Tensor:
        """Values of our tokens with their channels in the file's order; behind them what there is more."""
        own, more = values[..., : len(self.order)], values[..., len(self.order) :]
        return torch.cat([own[..., self.order.argsort()], more], -1)

    def ours(self, values: Tensor) -> Tensor:
        """The other way round."""
        return torch.cat([values[..., self.order], values[..., len(self.order) :]], -1)

    def tokens(self, name: str) -> Tokens:
        """Tokens of values of the case."""
        values = self.ours(self[name])
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool), values)

    def latents(self, name: str) -> Tensor:
        """Images of the case, which are in [-1, 1], as the model's are."""
        return (self[name] + 1) / 2


def compare_cases(source: Foreign, model: Model) -> Iterator[Comparison]:
    """Every tensor of every case beside a checkpoint."""
    return cases.compare_cases(source, model, CASES, "FlowMo", Case)


def blocks(case: Case, part: Any, name: str, ends: str) -> Callable[[dict[str, Any]], Iterator[Comparison]]:
    """Comparisons of a part's blocks by what was seen of them. The last one's other stream ends here, and goes on in
    the reference, by weights that a whole block is made of once more."""
    from .importer import translate  # which uses this module

    tensors, last, config = case.source.tensors, len(part.blocks) - 1, part.config
    whole = JointBlock(config.width, config.heads, modulated=name == "decoder")
    prefix = f"{name}.blocks.{last}."
    known = {translate(theirs): theirs for theirs in tensors}
    state = {inner: tensors[known[prefix + inner]] for inner in whole.state_dict()}
    whole.load_state_dict(state)

    def compared(seen: dict[str, Any]) -> Iterator[Comparison]:
        for i in range(last + 1):
            given, (tokens, patches) = seen[f"block{i}"]
            if i == last:
                both = whole(*given)
                tokens, patches = (both[0], patches) if ends == "tokens" else (tokens, both[1])
            seen[f"last.{name}"] = tokens, patches
            yield from case.check(f"{name[:3]}_block{i}_code", tokens)
            yield from case.check(f"{name[:3]}_block{i}_img", patches)

    return compared


# --- use ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def encode(case: Case) -> Iterator[Comparison]:
    """Encoder block by block, and tokens."""
    model, images = case.parts, case.latents("images")
    encoder, length = model.encoder, model.spec.tokens.length
    keep, own = torch.ones(len(images), length, dtype=torch.bool), dict[str, Any]()
    modules = {f"block{i}": block for i, block in enumerate(encoder.blocks)}
    modules |= {"patches": encoder.patches, "code": model.quantizer.project}

    def run() -> None:
        own["out"] = model.quantizer(encoder(images, keep), keep, rng=Rng(0, torch.arange(len(images))))

    seen, out = watched(modules, run), own["out"]
    turned, _ = turns_of(encoder.config, length, (1, 1), images.device)
    cosine, sine = turned.unbind(-1)
    table = torch.stack([cosine, -sine, sine, cosine], -1).unflatten(-1, (2, 2))
    single = {
        "enc_img_in": seen["patches"][1],
        "enc_txt_in": seen["block0"][0][0],
        "enc_pe": table.expand(len(images), 1, *table.shape),
        "code": case.theirs(seen["code"][1]),
        "bits": case.theirs(seen["code"][1]) > 0,
        "quantized": case.theirs(out.values),
        "indices": out.codes.flatten(),
        "quantizer_loss_eval": torch.stack([torch.zeros(()), *out.losses.values()]).sum()[None],
    }
    for name, value in single.items():
        yield from case.check(name, value)
    yield from blocks(case, encoder, "encoder", "patches")(seen)


@torch.no_grad()
def decode(case: Case) -> Iterator[Comparison]:
    """The network with all tokens, some and none."""
    decoder, tokens, x, times = case.parts.decoder, case.tokens("quantized"), case["x_t"], case["timesteps"]
    null, size = torch.ones(len(x), dtype=torch.bool), decoder.config.patch
    given = decoder.condition(tokens)
    modules = {f"block{i}": block for i, block in enumerate(decoder.blocks)}
    modules |= {"patches": decoder.patches, "tokens": decoder.from_tokens, "time": decoder.time}
    own = dict[str, Tensor]()
    seen = watched(modules, lambda: own.update(velocity=decoder.velocity(x, times, given)[0]))
    yield from blocks(case, decoder, "decoder", "tokens")(seen)
    single = {
        "code_with_mask": case.theirs(given),
        "dec_img_in": seen["patches"][1],
        "dec_txt_in": seen["tokens"][1],
        "t_emb": seen["time"][1],
        "dec_final_img": patched(own["velocity"], size),
        "dec_final_txt": ending(case, seen["last.decoder"][0], torch.nn.functional.silu(seen["time"][1])),
        **own,
        "velocity_null": decoder.velocity(x, times, decoder.condition(tokens, null))[0],
        "velocity_null_mixed": decoder.velocity(x, times, decoder.condition(tokens, mixed(case, null)))[0],
    }
    for name, value in single.items():
        yield from case.check(name, value)
    yield from case.check("t_sinusoid", sinusoid(1000 * times), atol=ANGLES)
    for found in case.named(r"velocity_zeroed_from(\d+)"):
        yield from case.check(found[0], zeroed(case, tokens, int(found[1])))


def ending(case: Case, tokens: Tensor, time: Tensor) -> Tensor:
    """Compute what the reference makes of its decoder's last tokens, and uses nowhere."""
    weights, norm = case.source.tensors, case.parts.decoder.norm
    linear, change = (f"decoder.final_layer_txt.{name}." for name in ("linear", "adaLN_modulation.1"))
    shift, scale = (time @ weights[f"{change}weight"].mT + weights[f"{change}bias"])[:, None].chunk(2, -1)
    out: Tensor = norm(norm(tokens) * (1 + scale) + shift) @ weights[f"{linear}weight"].mT + weights[f"{linear}bias"]
    return out


def mixed(case: Case, null: Tensor) -> Tensor:
    """The rows that are null in the mixed result: those that are unlike the conditional ones."""
    if "velocity_null_mixed" not in case:
        return null
    return (case["velocity_null_mixed"] != case["velocity"]).flatten(1).any(1)


def zeroed(case: Case, tokens: Tokens, count: int) -> Tensor:
    """Velocity with the first tokens alone; the others are absent."""
    decoder: Any = case.parts.decoder
    velocity: Tensor = decoder.velocity(case["x_t"], case["timesteps"], decoder.condition(tokens.truncate(count)))[0]
    return velocity


@torch.no_grad()
def sample(case: Case) -> Iterator[Comparison]:
    """Whole chains of sampling, step by step."""
    decoder, tokens = case.parts.decoder, case.tokens("quantized")
    for found in case.named(r"pow4_ts(?:_(\d+))?"):
        times = MMDiTSampling(steps=len(case[found[0]]) - 1, power=4.0).times()
        yield from case.check(found[0], torch.tensor(times))
    own: Any = case.model.sampling
    for found in case.named(r"(pow([\d.]+)|linear)_cfg([\d.]+?)(_(?:all|interval))?_steps"):
        label, wanted = found[0].removesuffix("_steps"), case[found[0]]
        interval = own.interval if found[4] == "_interval" else (0.0, 1.0)
        settings = {"steps": len(wanted), "power": float(found[2] or 1), "guidance": float(found[3])}
        used = MMDiTSampling(**settings, interval=interval)
        states = [case["init_noise"]]
        given = decoder.condition(tokens)
        both = torch.cat([given, torch.zeros_like(given)])
        for t, end in itertools.pairwise(used.times()):
            slope = decoder.guided(states[-1], t, given, both, used.scale(t))
            states.append(states[-1] - (t - end) * slope)
        yield from case.check(found[0], torch.stack(states[1:]), atol=SAMPLES)
        yield from case.check(f"{label}_clipped", drawn(case, tokens, "init_noise", used), atol=SAMPLES)
    if "reconstruct" in case:
        yield from case.check("reconstruct", drawn(case, tokens, "reconstruct_noise", own), atol=SAMPLES)


def drawn(case: Case, tokens: Tokens, noise: str, settings: MMDiTSampling) -> Tensor:
    """Images in [-1, 1] of tokens, as a user gets them."""
    rng = TableRng({"decoder/sample": case[noise]}, len(tokens))
    return 2 * case.model.decode(tokens, rng=rng, sampling=settings, size=tuple(case[noise].shape[2:])) - 1


# --- training ----------------------------------------------------------------------------------------------------


def losses_of(case: Case, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The quantizer's losses as the reference has them, without their weights; and their sum with them."""
    config: Any = case.model.config.quantizer
    single = {name: loss.mean() for name, loss in found.items()}
    token, batch = single["token_entropy"] / config.entropy, -single["codebook_entropy"] / config.entropy
    return {
        "per_sample_entropy": token[None],
        "codebook_entropy": batch[None],
        "entropy_aux_loss": (token - batch)[None],
        "commitment": single["commitment"][None] / config.commitment,
        "quantizer_loss": torch.stack(list(single.values())).sum()[None],
    }


def quantizer(case: Case) -> Iterator[Comparison]:
    """The quantizer by itself: in training with its gradient, and in use."""
    model = case.variant()
    quantizer, code = model.quantizer, case["code"].clone().requires_grad_()
    keep = torch.ones(code.shape[:2], dtype=torch.bool)
    rng = Rng(0, torch.arange(len(code)))
    quantizer.project = torch.nn.Identity()
    out = quantizer.train()(case.ours(code), keep, rng=rng)
    values, own = case.theirs(out.values), losses_of(case, out.losses)
    total = (values.flatten() * torch.linspace(-1, 1, values.numel())).sum() + own["quantizer_loss"].sum()
    (gradient,) = torch.autograd.grad(total, code)
    still = quantizer.eval()(case.ours(code), keep, rng=rng)
    bits = model.config.quantizer.bits
    book = ((torch.arange(2**bits)[:, None] >> torch.arange(bits)) & 1) * 2.0 - 1  # least bit first
    more = {"quantized": values, "indices": out.codes.flatten(), "code_grad": gradient, "codebook": book}
    more["quantizer_loss_eval"] = torch.stack([torch.zeros(()), *still.losses.values()]).sum()[None]
    for name, value in (own | more).items():
        loss = {"atol": LOSSES, "rtol": LOSSES} if name in own else {}
        yield from case.check(name, value, **loss)


def train(case: Case) -> Iterator[Comparison]:
    """A step of training: what is drawn, losses, and gradients."""
    model, images = case.variant().train(), case.latents("images")
    names = {"time": "t_normal", "even": "t_fat_uniform", "uniform-time": "t_uniform", "noise": "noise"}
    rng = TableRng(
        {f"decoder/{ours}": case[name] for ours, name in (names | {"null": "cfg_uniform"}).items()}, len(images)
    )
    batch = model.prepare(Batch(torch.arange(len(images)), images), rng=rng)
    own = dict[str, Any]()
    decoder = model.decoder
    modules = {"patches": decoder.patches, "code": model.quantizer.project, "head": decoder.head}
    seen = watched(modules, lambda: own.update(out=model(batch, rng=rng)))
    out, size = own["out"], decoder.config.patch
    flow = out.losses["decoder/flow"].mean()[None]
    quantized = {
        name.removeprefix("quantizer/"): loss for name, loss in out.losses.items() if name.startswith("quantizer")
    }
    losses = losses_of(case, quantized)
    losses |= {"diffusion_loss": flow, "loss": flow + losses["quantizer_loss"]}
    losses["loss"].sum().backward()
    single = {"timesteps": decoder.times(rng), "code": case.theirs(seen["code"][1])}
    patches = {"x_t": seen["patches"][0][0], "velocity": seen["head"][1]}
    for name, value in (single | losses).items():
        yield from case.check(name, value, **({"atol": LOSSES, "rtol": LOSSES} if name in losses else {}))
    for name, value in patches.items():
        if name in case:
            yield compare(case.path.stem, name, value.detach(), patched(case[name], size))
    yield from gradients(case, model)


def posttrain(case: Case) -> Iterator[Comparison]:
    """Post-training: the chain's end, a loss of it, and gradients through all steps."""
    given = case.ours(case["code_with_mask"])[..., : len(case.order)]
    tokens = Tokens(given, torch.ones(given.shape[:2], dtype=torch.bool), given)
    drawn = {"decoder/chain": case["step_uniform"], "decoder/chain-noise": case["init_noise"]}
    steps = case["step_uniform"].shape[1] - 1
    model = case.variant(decoder={"chain": steps}).train()
    rng, images = TableRng(drawn, len(given)), case["images"]
    found = model.decoder.chained(tokens, images.shape[1:], rng)
    loss = (found - images).abs().mean()
    loss.backward()
    yield from case.check("sample", found, atol=SAMPLES)
    yield from case.check("l1", loss[None], atol=LOSSES, rtol=LOSSES)
    yield from gradients(case, model)


def gradients(case: Case, model: Any) -> Iterator[Comparison]:
    """Gradients by the checkpoint's names, and the norms of all."""
    from .importer import translate  # which uses this module

    own = {name: parameter.grad for name, parameter in model.named_parameters()}

    def gradient(theirs: str) -> Tensor | None:
        name = translate(theirs)
        found = own.get(name)
        if found is None:
            return None
        if name.startswith("quantizer."):
            return found[case.order.argsort()]
        return case.theirs(found) if name == "decoder.from_tokens.weight" else found

    yield from case.gradients(gradient)


CASES: Mapping[str, Callable[[Case], Iterator[Comparison]]] = {
    "case_encode": encode,
    "case_decode": decode,
    "case_sample": sample,
    "case_quantizer": quantizer,
    "case_train": train,
    "case_posttrain": posttrain,
}
