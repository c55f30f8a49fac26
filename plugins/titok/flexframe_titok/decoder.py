"""The mask-token decoder, with its head for pixels and its head for another tokenizer's codes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.convolutional import ConvDecoder
from flexframe.nn.ranges import Rescale
from flexframe.nn.transformer import Block
from flexframe.parts import Decoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Outputs, Tokens
from flexframe_registry import SamplingConfig, Spec

from . import MaskTokenDecoderConfig, PixelDecoderConfig, TextConfig
from .blocks import adapt_positions, embedding, init_weights


class PixelDecoder(nn.Module):
    """Stage 2: the proxy codes' expected vectors, decoded to pixels."""

    def __init__(self, config: PixelDecoderConfig, codebook: int, channels: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codebook, config.dim)
        self.decoder = ConvDecoder(config.dim, config.hidden, config.multipliers, config.blocks, channels)

    def soft_codes(self, logits: Float[Tensor, "b v h w"]) -> Float[Tensor, "b z h w"]:
        """Expected vectors of the proxy codes under these logits."""
        return torch.einsum("b v h w, v z -> b z h w", logits.softmax(1), self.codebook.weight)

    def forward(self, logits: Float[Tensor, "b v h w"]) -> Float[Tensor, "b c y x"]:
        return self.decoder(self.soft_codes(logits))


def check_text(given: Float[Tensor, "b n e"], batch: int, config: TextConfig) -> None:
    """Check that text embeddings are what the decoder takes.

    Raises:
        ValueError: they are not one a row, of another width, or longer.
    """
    if len(given) != batch or given.shape[2] != config.width or not 1 <= given.shape[1] <= config.length:
        expected = f"({batch}, 1..{config.length}, {config.width})"
        raise ValueError(f"text embeddings have shape {tuple(given.shape)}; this decoder takes {expected}")


class MaskTokenDecoder(Decoder):
    """`[class | mask tokens | tokens]` through a transformer; what stands at the mask tokens becomes the image.

    An absent token is not there: no position attends to it, and a sequence of fewer slots is really shorter. With
    `config.text`, the embeddings of a text follow the tokens (TA-TiTok), and the same holds of absent ones.
    """

    config: MaskTokenDecoderConfig

    def __init__(self, config: MaskTokenDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, patch, channels = config.width, config.patch, spec.latents.channels
        self.grid = (spec.latents.height // patch, spec.latents.width // patch)
        self.rescale = Rescale(spec.latents, (0.0, 1.0))
        self.decoder_embed = nn.Linear(spec.tokens.dim, width)
        self.class_embedding = embedding(1, width)
        self.mask_token = embedding(1, 1, width)
        self.positional_embedding = embedding(1 + self.grid[0] * self.grid[1], width)
        self.latent_token_positional_embedding = embedding(spec.tokens.length, width)
        if config.text is not None:
            self.text_guidance_proj = nn.Linear(config.text.width, width)
            self.text_guidance_positional_embedding = embedding(config.text.length, width)
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.ln_post = nn.LayerNorm(width)
        if config.head == "pixels":
            self.head = nn.Sequential(
                nn.Conv2d(width, patch * patch * channels, 1),
                Rearrange("b (p1 p2 c) h w -> b c (h p1) (w p2)", p1=patch, p2=patch),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
        else:
            self.head = nn.Sequential(
                nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, config.proxy_codebook, 1)
            )
        self.apply(init_weights)
        stage2 = config.pixel_decoder
        self.pixels = None if stage2 is None else PixelDecoder(stage2, config.proxy_codebook, channels)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Positions of another image size are stretched to this one's grid."""
        return adapt_positions(state, spec, self.spec, self.config.patch)

    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """The reconstruction, or proxy logits `b v h w`; the tap `block.i` is the patches after block i, `b h w e`.

        Raises:
            ValueError: a tap is unknown, or a text's embeddings do not fit.
        """
        self.check_taps(taps)
        answer, features = self._run(tokens, batch.condition, taps)
        if self.config.gives == "logits":
            return Outputs({}, logits=answer, features=features)
        return Outputs({}, self.rescale.inverse(answer), features=features)

    def decode(
        self,
        tokens: Tokens,
        *,
        condition: Condition | None,
        size: tuple[int, int],
        rng: Rng,
        sampling: SamplingConfig,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The reconstruction; the same for every `rng`, and at the model's own `size` only.

        Args:
            condition: with `config.text`, the text's `embeddings`; rows that are `null` have no text.

        Raises:
            ValueError: `size` is not the model's own, or the decoder gives proxy codes alone.
        """
        self.check_size(size, "its positions are fixed")
        if self.config.gives == "logits":
            raise ValueError("this decoder predicts proxy codes; to give pixels it needs a `pixel_decoder` (stage 2)")
        return self.rescale.inverse(self._run(tokens, condition, frozenset())[0])

    def _text(
        self, condition: Condition | None, batch: int
    ) -> tuple[Float[Tensor, "b n w"], Bool[Tensor, "b n"]] | None:
        """The text's part of the sequence and which of it is there, or None; `ValueError` where it does not fit."""
        config, given = self.config.text, None if condition is None else condition.embeddings
        if config is None:
            if given is not None:
                raise ValueError("this decoder knows no text; leave the embeddings away, or set its `text`")
            return None
        if condition is None or given is None:
            raise ValueError(
                f"this decoder is guided by text: give a Condition with embeddings `b n {config.width}`; "
                "rows that are null have none"
            )
        check_text(given, batch, config)
        there = ~condition.null[:, None].expand(batch, given.shape[1])
        if condition.present is not None:
            there = there & condition.present
        # as with tokens: an absent embedding is never read, whatever it holds
        projected = self.text_guidance_proj(given.masked_fill(~there[..., None], 0))
        return projected + self.text_guidance_positional_embedding[: given.shape[1]], there

    def _run(
        self, tokens: Tokens, condition: Condition | None, taps: frozenset[str]
    ) -> tuple[Float[Tensor, "b c y x"], dict[str, Float[Tensor, "b h w e"]]]:
        batch, patches = len(tokens), self.grid[0] * self.grid[1]
        slots = tokens.keep.shape[1]
        masks = self.mask_token.expand(batch, patches, -1)
        grid = torch.cat([self.class_embedding.expand(batch, 1, -1), masks], 1) + self.positional_embedding
        # an absent value is never read, whatever it holds: a masked key of infinite size would still give NaN
        values = tokens.values.masked_fill(~tokens.keep[..., None], 0)
        latents = self.decoder_embed(values) + self.latent_token_positional_embedding[:slots]
        parts, there = [grid, latents], [tokens.keep.new_ones(batch, 1 + patches), tokens.keep]
        text = self._text(condition, batch)
        if text is not None:
            parts, there = [*parts, text[0]], [*there, text[1]]
        keys = torch.cat(there, 1)[:, None, None]
        x = self.ln_pre(torch.cat(parts, 1))
        features = {}
        for i, block in enumerate(self.blocks):
            x = block(x, keys)
            if f"block.{i}" in taps:
                features[f"block.{i}"] = rearrange(x[:, 1 : 1 + patches], "b (h w) e -> b h w e", h=self.grid[0])
        x = rearrange(self.ln_post(x[:, 1 : 1 + patches]), "b (h w) e -> b e h w", h=self.grid[0])
        answer = self.head(x)
        return answer if self.pixels is None else self.pixels(answer), features
