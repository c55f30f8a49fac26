"""Guidance by text (TA-TiTok): where it stands, what it reaches, what is refused. No published tensor tells of it."""

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Tokens, prefix
from flexframe_registry import LatentSpec, SamplingConfig, Spec, TokenizerConfig, TokenSpec
from flexframe_registry.cards import cards
from flexframe_titok import MaskTokenDecoderConfig
from flexframe_titok.decoder import MaskTokenDecoder

LENGTH, DIM, WIDTH, WORDS = 8, 5, 12, 6
SPEC = Spec(LatentSpec(3, 8, 16), 64, TokenSpec(LENGTH, DIM))
NONE: frozenset[str] = frozenset()
TEXT = {"width": WIDTH, "length": WORDS}


def make(**fields):
    torch.manual_seed(0)
    return MaskTokenDecoder(MaskTokenDecoderConfig.sized("tiny", **{"text": TEXT, **fields}), SPEC)


def tokens(batch=2, length=LENGTH):
    values = torch.randn(batch, LENGTH, DIM, generator=torch.Generator().manual_seed(1))
    keep = prefix(torch.full((batch,), length), LENGTH)
    return Tokens(values, keep, torch.zeros(batch, LENGTH, 1, dtype=torch.long))


def caption(seed=2, batch=2, words=WORDS, null=None, present=None):
    embeddings = torch.randn(batch, words, WIDTH, generator=torch.Generator().manual_seed(seed))
    null = torch.zeros(batch, dtype=torch.bool) if null is None else torch.tensor(null)
    return Condition(null, embeddings=embeddings, present=present)


def decode(decoder, condition, given=None):
    given = tokens() if given is None else given
    rng = Rng(0, torch.arange(len(given)))
    return decoder.decode(given, condition=condition, size=(8, 16), rng=rng, sampling=SamplingConfig())


def train(decoder, condition):
    rows = torch.arange(2)
    return decoder(tokens(), Batch(rows, condition=condition), taps=NONE, rng=Rng(0, rows)).reconstruction


def test_state_keys_and_shapes():
    state = make().state_dict()
    added = {name: tuple(value.shape) for name, value in state.items() if name not in make(text=None).state_dict()}
    assert added == {
        "text_guidance_proj.weight": (64, WIDTH),
        "text_guidance_proj.bias": (64,),
        "text_guidance_positional_embedding": (WORDS, 64),
    }
    assert decode(make(), caption()).shape == (2, 3, 8, 16)


def test_the_text_stands_behind_the_tokens_and_before_the_first_norm():
    """Against the sequence written out: class, mask tokens, tokens, text; one norm over all of it."""
    decoder, given, text = make(depth=1), tokens(), caption()
    patches = 2 * 4
    grid = torch.cat([decoder.class_embedding.expand(2, 1, -1), decoder.mask_token.expand(2, patches, -1)], 1)
    sequence = torch.cat(
        [
            grid + decoder.positional_embedding,
            decoder.decoder_embed(given.values) + decoder.latent_token_positional_embedding,
            decoder.text_guidance_proj(text.embeddings) + decoder.text_guidance_positional_embedding,
        ],
        1,
    )
    assert sequence.shape[1] == 1 + patches + LENGTH + WORDS
    x = decoder.ln_post(decoder.blocks[0](decoder.ln_pre(sequence))[:, 1 : 1 + patches])
    expected = decoder.head(x.transpose(1, 2).unflatten(2, (2, 4)))
    torch.testing.assert_close(decode(decoder, text, given), expected)


def test_gradients_reach_the_text_s_parameters_and_embeddings():
    decoder, text = make(), caption()
    text.embeddings.requires_grad_()
    train(decoder, text).square().sum().backward()
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert text.embeddings.grad.any(-1).all()


def test_another_caption_gives_another_picture_and_training_agrees_with_use():
    decoder = make()
    one = decode(decoder, caption())
    assert not torch.allclose(one, decode(decoder, caption(seed=3)), atol=1e-4)
    torch.testing.assert_close(train(decoder, caption()), one, atol=0, rtol=0)


def test_an_absent_word_is_not_there_and_a_null_row_has_no_text():
    decoder, text = make(), caption()
    present = prefix(torch.tensor([3, 3]), WORDS)
    some = caption(present=present)
    spoiled = Condition(
        some.null, embeddings=text.embeddings.masked_fill(~present[..., None], torch.inf), present=present
    )
    short = Condition(text.null, embeddings=text.embeddings[:, :3])
    torch.testing.assert_close(decode(decoder, some), decode(decoder, short))
    torch.testing.assert_close(decode(decoder, spoiled), decode(decoder, short))
    assert not torch.allclose(decode(decoder, some), decode(decoder, text), atol=1e-4)

    half = decode(decoder, caption(null=[True, False]))
    plain = make(text=None)
    plain.load_state_dict({name: v for name, v in decoder.state_dict().items() if not name.startswith("text_guidance")})
    torch.testing.assert_close(half[:1], decode(plain, None)[:1])
    torch.testing.assert_close(half[1:], decode(decoder, text)[1:])


def test_rows_are_independent_and_short_sequences_keep_their_text():
    decoder, text, given = make(), caption(), tokens(length=3)
    whole = decode(decoder, text, given)
    alone = Tokens(given.values[1:], given.keep[1:], given.codes[1:])
    torch.testing.assert_close(
        decode(decoder, Condition(text.null[1:], embeddings=text.embeddings[1:]), alone), whole[1:]
    )
    torch.testing.assert_close(decode(decoder, text, given.truncate(3)), whole)


def test_what_does_not_fit_is_refused():
    labels = Condition(torch.zeros(2, dtype=torch.bool), labels=torch.zeros(2, dtype=torch.long))
    for call in (decode, train):
        for missing in (None, labels):
            with pytest.raises(ValueError, match="is guided by text: give a Condition with embeddings `b n 12`"):
                call(make(), missing)
        with pytest.raises(ValueError, match="this decoder knows no text"):
            call(make(text=None), caption())
        with pytest.raises(ValueError, match=r"shape \(2, 7, 12\); this decoder takes \(2, 1..6, 12\)"):
            call(make(), caption(words=7))
        with pytest.raises(ValueError, match=r"shape \(3, 6, 12\)"):
            call(make(), caption(batch=3))
    assert decode(make(text=None), labels).shape == (2, 3, 8, 16)


def test_through_a_tokenizer():
    raw = {"size": "tiny", "image_size": [8, 16], "length": 8, "encoder": "latent-tokens", "quantizer": "vq"}
    torch.manual_seed(0)
    model = Tokenizer(TokenizerConfig.read({**raw, "decoder": {"type": "vit", "text": TEXT}})).eval()
    images, text = torch.rand(2, 3, 8, 16), caption()
    encoded = model.encode(images)  # the encoder knows no text
    assert model.decode(encoded, condition=text).shape == images.shape
    with pytest.raises(ValueError, match="is guided by text"):
        model.decode(encoded)
    out = model.train()(Batch(torch.arange(2), images, condition=text), rng=Rng(0, torch.arange(2)))
    assert out.reconstruction.shape == images.shape


@pytest.mark.parametrize(
    ("name", "length"),
    [("bl-32-vq", 32), ("bl-64-vq", 64), ("bl-128-vq", 128), ("bl-32-vae", 32), ("bl-64-vae", 64), ("sl-128-vae", 128)],
)
def test_cards(name, length):
    """A published model is its namesake without text, and 77 positions and a projection of 768 more."""
    card = cards().get(f"tatitok/{name}")
    with torch.device("meta"):
        model = Tokenizer(card.model)
    assert card.model.length == length
    assert model.decoder.text_guidance_proj.weight.shape == (1024, 768)
    assert model.decoder.text_guidance_positional_embedding.shape == (77, 1024)
    assert card.file.verified == ""
    assert "unverified" in card.file.summary
