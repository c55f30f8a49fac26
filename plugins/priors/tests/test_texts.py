"""Conditioners: learned words, and frozen encoders whose embeddings are kept by content."""

import shutil
from importlib.util import find_spec

import pytest
import torch

from flexframe.models.generator import Generator
from flexframe.rng import Rng
from flexframe.tokens import Codes, Condition
from flexframe_priors import compiled, pretrained
from flexframe_priors.words import words
from flexframe_registry import ConfigError, GeneratorConfig, catalogue
from flexframe_registry.slots import resolve

TEXTS = ["a red star", "a large blue ring left of a small star"]
SHAPE = {"type": "gpt", "width": 32, "depth": 2, "heads": 2}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))


def conditioner(kind, **fields):
    return catalogue().build(resolve("conditioner", {"type": kind, **fields}))


def frozen(encoders, kind="t5", **fields):
    return conditioner(kind, **{"model": str(encoders[kind]), "width": 16, "length": 8, **fields})


def generator(text="cross", **fields):
    torch.manual_seed(0)
    raw = {"length": 6, "codebook_size": 20, "prior": {**SHAPE, "text": text, **fields}}
    words = {"type": "words", "width": 16, "depth": 1, "heads": 2, "length": 8}
    found = Generator(GeneratorConfig.read({**raw, "conditioner": words})).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found


# --- words -------------------------------------------------------------------------------------------------------


def test_words_are_small_letters_and_signs_of_their_own():
    assert words("A large, RED star") == ["a", "large", ",", "red", "star"]


def test_words_in_another_order_are_another_text():
    found = conditioner("words", width=16, heads=2)
    first, second = found(["red star blue ring", "blue ring red star"]).embeddings
    assert not torch.allclose(first, second.roll(2, 0), atol=1e-3)


# --- a prior that reads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["cross", "prefix"])
def test_cached_keys_move_nothing_and_guidance_of_one_is_none(text, monkeypatch):
    model = generator(text)
    for guidance in (1.0, 3.0):
        cached, plain = (
            model.sample(texts=TEXTS, sampling={"cache": cache, "guidance": guidance}).codes for cache in (True, False)
        )
        assert torch.equal(cached, plain)
    alone = model.sample(texts=TEXTS[1:], rng=Rng(0, torch.tensor([1])), sampling={"guidance": 3.0}).codes
    assert torch.equal(alone[0], plain[1])
    monkeypatch.setattr(torch, "compile", lambda step, **_: step)
    monkeypatch.setattr(compiled, "need_compiler", lambda: None)
    stepped = model.sample(texts=TEXTS, sampling={"compile": True, "guidance": 3.0}).codes
    assert torch.equal(stepped, plain)


@pytest.mark.parametrize("text", ["cross", "prefix"])
def test_likelihoods_are_those_that_drawing_goes_by(text):
    model = generator(text)
    codes = model.sample(texts=TEXTS, sampling={"temperature": 0.0})
    with torch.no_grad():
        condition = model.embedded(_given(TEXTS), 2)
        context = model.prior.context(condition)
        digits = model.prior.digits(codes.codes)
        classes = torch.zeros(2, dtype=torch.long)
        stepwise = torch.stack(
            [
                model.prior.next_logits(digits[:, :i], classes, context=context).log_softmax(-1)[
                    torch.arange(2), digits[:, i]
                ]
                for i in range(6)
            ],
            1,
        )
        torch.testing.assert_close(model.prior.log_prob(codes, condition), stepwise, atol=1e-5, rtol=1e-5)


def _given(texts):
    return Condition(torch.zeros(len(texts), dtype=torch.bool), texts=tuple(texts))


def test_training_hides_texts_as_often_as_it_is_told():
    model = generator(class_dropout=1.0).train()
    rng = Rng(0, torch.arange(2))
    codes = Codes(rng.integers("ids", 20, (6, 1)), torch.ones(2, 6, dtype=torch.bool))
    hidden = model(codes, _given(TEXTS), rng=rng)["codes"]
    torch.testing.assert_close(hidden, model(codes, None, rng=rng)["codes"])
    shown = generator(class_dropout=0.0).train()(codes, _given(TEXTS), rng=rng)["codes"]
    assert ((shown - hidden).abs() > 1e-3).all()


def test_a_prefix_beside_rotated_places_is_refused():
    with pytest.raises(ConfigError, match=r"prior: a text before the codes moves their places, which rope counts"):
        generator("prefix", positions="rope")


def test_priors_without_a_place_for_texts_say_so(monkeypatch):
    monkeypatch.setattr(catalogue().get("prior", "rar").config, "texts", False)
    raw = {"length": 6, "codebook_size": 20, "prior": {"type": "rar", "width": 32, "heads": 2}, "conditioner": "words"}
    with pytest.raises(ConfigError, match="conditioner: is 'words', and prior 'rar' has no place for a text"):
        GeneratorConfig.read(raw)


# --- frozen encoders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "clip", "minilm"])
def test_a_frozen_encoder_gives_what_transformers_gives(encoders, kind):
    import transformers

    found = frozen(encoders, kind)(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoders[kind])
    classes = {"t5": transformers.T5EncoderModel, "clip": transformers.CLIPTextModel, "minilm": transformers.BertModel}
    encoder = classes[kind].from_pretrained(encoders[kind]).eval()
    with torch.no_grad():
        out = encoder(**tokenizer(TEXTS[0], return_tensors="pt"))
    here = found.present[0]
    torch.testing.assert_close(found.embeddings[0][here], out.last_hidden_state[0], atol=2e-3, rtol=2e-3)
    if kind == "clip":
        torch.testing.assert_close(found.pooled[:1], out.pooler_output, atol=2e-3, rtol=2e-3)
    assert (found.pooled is None) == (kind == "t5")


def test_clip_gives_the_layer_and_the_vector_that_are_asked_for(encoders):
    """As MaskGen reads texts: the layer before the last, padding of piece 0 read, the whole's vector projected."""
    import transformers

    encoder = transformers.CLIPTextModelWithProjection.from_pretrained(encoders["clip"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoders["clip"])
    pieces = [tokenizer(text, truncation=True, max_length=8).input_ids for text in TEXTS]
    filled = torch.tensor([each + [0] * (8 - len(each)) for each in pieces])
    with torch.no_grad():
        out = encoder(input_ids=filled, output_hidden_states=True)
    near = {"atol": 2e-3, "rtol": 2e-3}
    found = frozen(encoders, "clip", layer="penultimate", projected=True, padded=True)(TEXTS)
    assert found.present.all()
    torch.testing.assert_close(found.embeddings, out.hidden_states[-2], **near)
    torch.testing.assert_close(found.pooled, out.text_embeds, **near)
    last = frozen(encoders, "clip", padded=True)(TEXTS)
    torch.testing.assert_close(last.embeddings, out.last_hidden_state, **near)
    plain = frozen(encoders, "clip")(TEXTS)
    assert plain.present.sum(1).tolist() == [len(each) for each in pieces]
    torch.testing.assert_close(plain.pooled, last.pooled, **near)
    assert (found.pooled - last.pooled).abs().max() > 0.1
    assert (found.embeddings - last.embeddings).abs().max() > 0.1


def test_a_projection_to_another_width_is_refused(encoders):
    with pytest.raises(ConfigError, match=r"^conditioner\.projected: projects .*wide's texts to 24, not to their own"):
        frozen({"clip": encoders["wide"]}, "clip", projected=True)(TEXTS)
    assert frozen({"clip": encoders["wide"]}, "clip")(TEXTS).pooled.shape == (2, 16)


def test_tensors_that_are_not_there_are_told(encoders, tmp_path, capfd):
    """transformers fills them with random numbers, and says so in a table."""
    import transformers

    folder = shutil.copytree(encoders["clip"], tmp_path / "clip")
    transformers.CLIPTextModel.from_pretrained(folder).save_pretrained(folder)
    capfd.readouterr()
    assert frozen({"clip": folder}, "clip")(TEXTS).pooled.shape == (2, 16)
    with pytest.raises(
        ConfigError, match=r"lacks 1 tensors of CLIPTextModelWithProjection, as text_projection\.weight"
    ):
        frozen({"clip": folder}, "clip", projected=True)(TEXTS)
    frozen(encoders, "clip")(["a star alone"])  # its file has a projection, and nobody asks for it
    assert capfd.readouterr() == ("", "")


def test_a_text_is_embedded_once_whoever_asks(encoders, monkeypatch):
    first = frozen(encoders)(TEXTS)
    monkeypatch.setattr(pretrained.Pretrained, "_embed", None)
    again = frozen(encoders)(TEXTS[::-1])
    assert torch.equal(again.embeddings[1][again.present[1]], first.embeddings[0][first.present[0]])
    with pytest.raises(TypeError):
        frozen(encoders)(["a text that was not there"])


def test_known_weights_and_known_texts_need_no_encoder(encoders, monkeypatch):
    settled = frozen(encoders).settled()
    before = catalogue().build(settled)(TEXTS)
    monkeypatch.setattr(pretrained.Pretrained, "_encoder", None)
    assert torch.equal(catalogue().build(settled)(TEXTS).embeddings, before.embeddings)


def test_another_encoder_of_that_name_is_refused(encoders):
    settled = frozen(encoders).settled()
    changed = settled.model_copy(update={"model": str(encoders["other"])})
    with pytest.raises(ConfigError, match="is another encoder than the model was trained with"):
        catalogue().build(changed).count("a star")


def test_a_folder_without_an_encoder_is_told(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"conditioner\.model: .* holds no text encoder of this kind"):
        conditioner("t5", model=str(tmp_path), width=16)(TEXTS)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "nobody/nothing"}, r"conditioner\.model: 'nobody/nothing' is no folder here, and no text enc"),
        ({"width": 17}, r"conditioner\.width: is 17, and .* is 16 wide; set that"),
    ],
)
def test_encoders_that_are_refused(encoders, fields, told, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=told):
        frozen(encoders, **fields)(TEXTS)


@pytest.mark.parametrize(("kind", "most"), [("clip", 8), ("minilm", 512)])
def test_a_length_that_the_encoder_does_not_read_is_refused(encoders, kind, most):
    told = rf"^conditioner\.length: is {most + 1}, and .* reads at most {most} pieces; set no more than that"
    with pytest.raises(ConfigError, match=told):
        conditioner(kind, model=str(encoders[kind]), width=16, length=most + 1)(TEXTS)


def test_a_missing_package_is_told_with_the_command(monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name == "transformers" else find_spec(name))
    with pytest.raises(ConfigError, match=r"^conditioner: 't5' needs the package transformers: pip install"):
        conditioner("t5")(TEXTS)


def test_a_broken_cache_is_told(encoders, tmp_path):
    found = frozen(encoders)
    found(TEXTS)
    (file,) = (tmp_path / "home" / "texts").glob("*.sqlite")
    file.write_bytes(b"no database at all, but longer than nothing")
    with pytest.raises(ConfigError, match=r"t5-8-.*\.sqlite: cannot be used .*; delete it"):
        found(TEXTS)
