"""Tokenizers as ONNX: the encoder, and the decoder or one step of it, compared with torch before they are kept."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flexframe.extras import needed
from flexframe.files import replaced, write_text
from flexframe.models.fingerprint import fingerprint
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.tokens import Tokens
from flexframe_registry import ConfigError

log = logging.getLogger("flexframe")
CHECKED = 3
"""Rows that are compared; another number than was exported, for the batch may be any."""
TRACED = 2
BOUND = 1e-3
"""The largest difference of a float, of values of about 1, that is taken for rounding."""


class Encode(nn.Module):
    """Images to codes, at full length."""

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        model, rows = self.model, Rng(0, torch.arange(images.shape[0]))
        keep = torch.ones(images.shape[0], model.spec.tokens.length, dtype=torch.bool)
        read = images if model.config.encoder.reads == "images" else model.codec.encode(images, rng=rows)
        codes: Tensor = model.quantizer(model.encoder(read, keep).float(), keep, rng=rows).codes
        return codes


class Decode(nn.Module):
    """Codes to images in [0, 1], of a decoder that draws nothing. `keep` is True where a token is present."""

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor, keep: Tensor) -> Tensor:
        model, latents = self.model, self.model.spec.latents
        latent = model.decoder.decode(
            Tokens(model.quantizer.lookup(codes), keep, codes), condition=None, size=(latents.height, latents.width),
            rng=Rng(0, torch.arange(codes.shape[0])), sampling=model.sampling,
        )  # fmt: skip
        return model.codec.decode(latent).float().clamp(0, 1)


class Step(nn.Module):
    """Velocity of the flow under codes at x, each row's time t and the length of its step: without guidance."""

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor, keep: Tensor, x: Tensor, t: Tensor, step: Tensor) -> Tensor:
        return self.model.decoder.flow(Tokens(self.model.quantizer.lookup(codes), keep, codes)).velocity(x, t, step)


class Pixels(nn.Module):
    """Latents to images in [0, 1]: what stands behind the last step."""

    def __init__(self, model: Tokenizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        return self.model.codec.decode(latents).float().clamp(0, 1)


@dataclass(frozen=True)
class Made:
    """One file, and how near what it computes is to torch."""

    path: Path
    error: float | None
    """The largest difference, or for codes the share that differs; None without onnxruntime."""
    exact: bool
    """Whether it is the latter."""

    def told(self) -> str:
        """A sentence's end."""
        if self.error is None:
            return "not compared: pip install 'flexframe[onnx]' brings onnxruntime"
        return f"{self.error:.2%} of codes differ from torch's" if self.exact else f"within {self.error:.1e} of torch"


def export(model: Tokenizer, folder: Path) -> list[Made]:
    """Write `encoder.onnx`, and `decoder.onnx` where the decoder draws nothing, else `decoder_step.onnx` and
    `pixels.onnx`, with `about.json`, which says what goes in and comes out. The batch may be any.

    Raises:
        ImportError: the exporter is not installed.
        ConfigError: what the exporter cannot say in ONNX; an export that computes something else.
    """
    needed("onnx", "onnx", "export to ONNX")
    needed("onnxscript", "onnx", "export to ONNX")
    model = model.eval().requires_grad_(False).to("cpu")
    parts = parts_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    made = [_one(name, module, given, folder / f"{name}.onnx") for name, (module, given) in parts.items()]
    about = {
        "model": model.id,
        "fingerprint": fingerprint(model),
        "image_size": list(model.config.image_size),
        "tokens": {"length": model.config.length, "codebook_size": model.spec.tokens.codebook_size},
        "sampling": model.sampling.model_dump(mode="json"),
        "files": {
            each.path.name: {
                "inputs": {name: list(value.shape) for name, value in parts[each.path.stem][1].items()},
                "error": each.error,
            }
            for each in made
        },
    }
    write_text(folder / "about.json", json.dumps(about, indent=1) + "\n")
    return made


def parts_of(model: Tokenizer) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """Parts that are exported, by the file's name: a module, and inputs by name, whose first axis is the batch. Without
    the decoder, which is told, where it draws and shows no flow."""
    height, width = model.config.image_size
    images = torch.rand(TRACED, 3, height, width, generator=torch.Generator().manual_seed(0))
    codes = model.encode(images).codes
    inputs = {"codes": codes, "keep": torch.ones(codes.shape[:2], dtype=torch.bool)}
    parts: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {"encoder": (Encode(model), {"images": images})}
    if not type(model.sampling).model_fields:
        return {**parts, "decoder": (Decode(model), inputs)}
    if "flow" not in model.config.decoder.provides():
        kind = model.config.decoder.type
        log.warning("decoder %r is not exported: it draws what it gives, and shows no flow whose steps could be", kind)
        return parts
    latents = model.spec.latents
    x = torch.randn(TRACED, latents.channels, latents.height, latents.width, generator=torch.Generator().manual_seed(1))
    flow = {**inputs, "x": x, "t": torch.tensor([0.25, 0.75]), "step": torch.full((TRACED,), 0.05)}
    parts["decoder_step"] = (Step(model), flow)
    if not latents.images:
        parts["pixels"] = (Pixels(model), {"latents": x})
    return parts


def _one(name: str, module: nn.Module, given: Mapping[str, Tensor], path: Path) -> Made:
    axes = tuple({0: torch.export.Dim.DYNAMIC} for _ in given)
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()):  # it reports each of its stages
            program: Any = torch.onnx.export(
                module.eval(), tuple(given.values()), dynamo=True, input_names=list(given), output_names=["out"],
                dynamic_shapes=axes, verbose=False,
            )  # fmt: skip
    except Exception as error:  # whatever an operator that it does not know makes it raise
        cause = error.__cause__ or error  # its own words are a page on what to try
        why = " ".join(str(cause).split())[:200]
        raise ConfigError.at(name, f"cannot be said in ONNX: {type(cause).__name__}: {why}") from error
    finally:
        quiet.setLevel(level)
    with replaced(path) as part:
        program.save(str(part), external_data=False)
        off, exact = compare(part, module, given)
    if off is not None and off > BOUND:
        path.unlink(missing_ok=True)
        raise ConfigError.at(str(path), f"computes something else than torch (off by {off:.2g}); it is not kept")
    return Made(path, off, exact)


@torch.no_grad()
def compare(path: Path, module: nn.Module, given: Mapping[str, Tensor]) -> tuple[float | None, bool]:
    """The largest difference between what onnxruntime and torch compute, over another number of rows than was exported;
    or the share of codes that differ, and True. None where onnxruntime is not installed."""
    if find_spec("onnxruntime") is None:
        return None, False
    import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    rows = {name: torch.cat([value, value.flip(0)])[:CHECKED] for name, value in given.items()}
    if "keep" in rows:
        rows["keep"] = _shorter(module, rows["keep"])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    asked = {each.name for each in session.get_inputs()}  # what moves nothing is no input
    (found,) = session.run(None, {name: value.numpy() for name, value in rows.items() if name in asked})
    wanted, found = module(*rows.values()), torch.from_numpy(found)
    if wanted.is_floating_point():
        return float((wanted - found).abs().max()), False
    return float((wanted != found).float().mean()), True


def _shorter(module: Any, keep: Tensor) -> Tensor:
    """The last row with as few tokens as its model is offered at, so that this is compared too."""
    keep = keep.clone()
    keep[-1, min(module.model.config.budgets) :] = False
    return keep
