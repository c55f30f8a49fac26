"""Priors that are of no tokenizer's family: models of token codes, one code after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from flexframe_registry import CodesSpec, Component, ImporterConfig, PriorConfig, SamplingConfig, hookimpl
from flexframe_registry.cards import folders

from .denoising_configs import CausalDenoisingConfig, EpsLlamaGenImporterConfig, MARConfig, MARImporterConfig
from .texts_config import CLIPConfig, MiniLMConfig, T5Config, WordsConfig


def hidden_class(config: PriorConfig, spec: CodesSpec) -> Iterator[tuple[str, str]]:
    """A doubt about the dropout of a condition where there is none."""
    for name, value in () if spec.classes or spec.text else config.changed("class_dropout"):
        yield name, f"{value:g} does nothing without classes; set `classes`, or leave it out"


class RARSampling(SamplingConfig):
    """One token after the other, with classifier-free guidance that grows along the sequence."""

    temperature: float = Field(1.0, ge=0)
    """Logits are divided by it; 0 takes the likeliest code."""
    guidance: float = 4.0
    """Scale at the end: unconditional + guidance (conditional - unconditional), so 1 is none."""
    power: float = Field(0.0, ge=0)
    """Exponent of the share of tokens done, along whose cosine guidance grows from 1; 0 is constant guidance."""
    cache: bool = True
    """Keep keys and values of earlier tokens; it moves no number beyond rounding."""

    def excess(self, done: float) -> float:
        """The weight of conditional - unconditional, on top of the conditional logits, at a share of the tokens
        done."""
        return (self.guidance - 1) * (1 - math.cos(math.pi * done**self.power)) / 2 if self.guided else 0.0

    @property
    def guided(self) -> bool:
        """Tell whether guidance does anything."""
        return self.guidance != 1


class RARConfig(PriorConfig):
    """Randomized autoregression (Yu et al., arXiv 2411.00776): a causal transformer trained on permuted orders, which
    give way to the plain one, and told at each position which one comes next."""

    type: Literal["rar"] = "rar"
    sampling = RARSampling
    texts = True
    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2, "hidden": 128},
        "small": {"width": 384, "depth": 12, "heads": 6, "hidden": 1536},
        "large": {"width": 1024, "hidden": 4096},
    }

    width: int = Field(768, ge=1)
    """Transformer width."""
    depth: int = Field(24, ge=1)
    """Transformer blocks."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    hidden: int = Field(3072, ge=1)
    """Width inside the feed-forward layers."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Training: dropout of what attention and feed-forward layers give."""
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    """Training: dropout of attention weights."""
    class_dropout: float = Field(0.1, ge=0, le=1)
    """Training: probability that a row's class, or its text, is hidden, for guidance."""
    anneal_start: int = Field(125_000, ge=0)
    """Training: up to this step every row's order is a random permutation."""
    anneal_end: int = Field(187_500, ge=0)
    """Training: from this step on none is; in between, the share falls linearly."""

    @model_validator(mode="after")
    def _sizes(self) -> RARConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by its {self.heads} heads")
        if self.anneal_end < self.anneal_start:
            raise ValueError(f"anneal_end, {self.anneal_end}, is before anneal_start, {self.anneal_start}")
        return self

    def check_codes(self, spec: CodesSpec) -> None:
        if spec.codebooks != 1:
            raise ValueError(
                f"models one code a token, and these tokens have {spec.codebooks}; prior 'gpt' models them"
            )

    def doubts_of_codes(self, spec: CodesSpec, steps: int) -> Iterable[tuple[str, str]]:
        yield from hidden_class(self, spec)
        if self.anneal_start >= steps:
            text = (
                f"{self.anneal_start} is not before the last step, {steps}, so no row is ever in the order that drawing"
            )
            yield "anneal_start", f"{text} goes by; set it to half the steps, and anneal_end to three quarters"

    def permuted_share(self, step: int) -> float:
        """The share of rows whose order training permutes."""
        if step < self.anneal_start:
            return 1.0
        if step >= self.anneal_end:
            return 0.0
        return 1 - (step - self.anneal_start) / (self.anneal_end - self.anneal_start)


class GPTSampling(SamplingConfig):
    """One code after the other, with classifier-free guidance."""

    temperature: float = Field(1.0, ge=0)
    """Logits are divided by it; 0 takes the likeliest code."""
    top_k: int | None = Field(None, ge=1)
    """Draw among so many likeliest codes only (with `split`: digits); among all if not given."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw among the likeliest codes (with `split`: digits) that together have at least this probability."""
    guidance: float = 1.0
    """Scale: unconditional + guidance (conditional - unconditional), so 1 is none."""
    cache: bool = True
    """Keep keys and values of earlier codes; it moves no number beyond rounding."""
    draft: str | None = None
    """A smaller prior of the same codes, a card, folder or file, that draws some codes ahead; this one then sees all of
    them at once and keeps those that it would have drawn. It moves no number beyond rounding."""
    draft_length: int = Field(4, ge=1)
    """Codes (with `split`: digits) that a draft draws ahead."""
    compile: bool = False
    """Compile the step of one code with torch.compile; on CUDA it is then one graph. It moves no number beyond
    rounding, and takes up to minutes at first."""
    later = frozenset({"draft", "draft_length", "compile"})

    @model_validator(mode="after")
    def _cached(self) -> GPTSampling:
        if self.compile and not self.cache:
            raise ValueError("what is compiled is a step with a cache; leave cache at true, or compile at false")
        if self.draft is not None and not self.cache:
            raise ValueError("a draft draws ahead of a cache; leave cache at true, or give no draft")
        return self


class GPTConfig(PriorConfig):
    """A decoder-only transformer of a tokenizer's codes, one after the other: the generator of FlexTok's stage 2 (arXiv
    2502.13967) and of LlamaGen (arXiv 2406.06525), with RMS norms and SwiGLU."""

    type: Literal["gpt"] = "gpt"
    sampling = GPTSampling
    texts = True
    later = frozenset({"text"})
    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2},
        "small": {"width": 640, "depth": 10, "heads": 10},
        "large": {"width": 1280, "depth": 20, "heads": 20},
    }

    width: int = Field(768, ge=1)
    """Transformer width."""
    depth: int = Field(12, ge=1)
    """Transformer blocks."""
    heads: int = Field(12, ge=1)
    """Attention heads."""
    positions: Literal["learned", "rope"] = "learned"
    """`learned`: an embedding a position, as codes without a place in the picture suggest; `rope`: rotated queries and
    keys (arXiv 2104.09864), along the sequence."""
    split: tuple[int, ...] = ()
    """Radices, the least significant first, in which each code is written and modelled digit by digit, exactly; their
    product is the codebook's size. Spares the tables of a large codebook: FSQ's 64000 as `[512, 125]` is two digits."""
    prefixes: bool = False
    """Training: cut each row to a length drawn evenly from 1 to its own, so that early tokens weigh more."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Training: dropout of embedded codes and of what attention and feed-forward layers give."""
    class_dropout: float = Field(0.1, ge=0, le=1)
    """Training: probability that a row's class, or its text, is hidden, for guidance."""
    text: Literal["cross", "prefix"] = "cross"
    """With a conditioner: `cross`, every block attends to the text after it attended to the codes (FlexTok, section 4);
    `prefix`, the text stands before the codes (LlamaGen)."""

    @model_validator(mode="after")
    def _sizes(self) -> GPTConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by its {self.heads} heads")
        if self.positions == "rope" and self.width // self.heads % 2:
            raise ValueError(f"rope rotates pairs, and heads of width {self.width // self.heads} have an odd one left")
        return self

    def check_codes(self, spec: CodesSpec) -> None:
        if self.split and (min(self.split) < 2 or math.prod(self.split) != spec.entries):
            product = " x ".join(map(str, self.split))
            raise ValueError(
                f"split is {product} = {math.prod(self.split)}; its factors must be 2 or more and give the codebook's "
                f"{spec.entries} entries"
            )
        if spec.text is not None and self.text == "prefix" and self.positions == "rope":
            raise ValueError("a text before the codes moves their places, which rope counts; set text=cross")

    def doubts_of_codes(self, spec: CodesSpec, steps: int) -> Iterable[tuple[str, str]]:
        return hidden_class(self, spec)

    def radices(self, spec: CodesSpec) -> tuple[int, ...]:
        """The number of values that each of a token's digits takes, in the order in which they are modelled."""
        return (self.split or (spec.entries,)) * spec.codebooks


class RARImporterConfig(ImporterConfig):
    """RAR's generators of bytedance/1d-tokenizer (`yucornetto/RAR`): safetensors or `.bin`, with or without config."""

    type: Literal["rar"] = "rar"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(GPTConfig, "flexframe_priors.gpt:GPT"),
        Component(RARConfig, "flexframe_priors.rar:RAR"),
        Component(CausalDenoisingConfig, "flexframe_priors.causal_denoising:CausalDenoising"),
        Component(MARConfig, "flexframe_priors.mar:MAR"),
        Component(EpsLlamaGenImporterConfig, "flexframe_priors.eps_llamagen_importer:EpsLlamaGenImporter"),
        Component(MARImporterConfig, "flexframe_priors.mar_importer:MARImporter"),
        Component(WordsConfig, "flexframe_priors.words:Words"),
        Component(T5Config, "flexframe_priors.pretrained:T5"),
        Component(CLIPConfig, "flexframe_priors.pretrained:CLIP"),
        Component(MiniLMConfig, "flexframe_priors.pretrained:MiniLM"),
        Component(RARImporterConfig, "flexframe_priors.rar_importer:RARImporter"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
