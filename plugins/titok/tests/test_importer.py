"""The importer of TiTok's checkpoints: what it reads, infers and refuses, on checkpoints that this file makes itself.

A model of ours, written under the reference's names with cases that it computed, shows that nothing hangs on the shapes
of the golden folders; that the numbers are the reference's is for `test_golden.py`.
"""

import copy
import json
import logging
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import flexframe
from flexframe.importing import importer_of, open_foreign
from flexframe.importing.verify import verify_folder
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.store import hub
from flexframe.store.load import load
from flexframe.testing.refusals import parametrize_refusals
from flexframe.tokens import Batch, Condition, Tokens
from flexframe_registry import ConfigError, TokenizerConfig
from flexframe_registry.cards import cards
from flexframe_titok.importer import choose
from flexframe_titok.reference import convert

BACK = (
    (r"^encoder\.latent_tokens$", "latent_tokens"),
    (r"^quantizer\.project\.", "encoder.conv_out."),
    (r"^quantizer\.codebook\.", "quantize."),
    (r"^decoder\.pixels\.codebook\.", "pixel_quantize.embedding."),
    (r"^decoder\.pixels\.decoder\.", "pixel_decoder."),
    (r"\.blocks\.", ".transformer."),
    (r"\.attn\.in_proj\.", ".attn.in_proj_"),
    (r"\.mlp\.0\.", ".mlp.c_fc."),
    (r"\.mlp\.2\.", ".mlp.c_proj."),
)
"""Our names to the reference's, but for the head's."""

# shapes that no golden folder has: heads of 12, 10 and 24 channels, other patches, image sizes, codebooks and lengths
TWO_STAGE = {
    "image_size": 24,
    "length": 5,
    "encoder": {"type": "latent-tokens", "width": 48, "depth": 1, "heads": 4, "patch": 8, "legacy": True},
    "quantizer": {"type": "vq", "codebook_size": 40, "dim": 6, "l2_norm": True, "commitment": 0.5},
    "decoder": {
        "type": "vit", "width": 30, "depth": 3, "heads": 3, "patch": 4, "head": "proxy-codes", "proxy_codebook": 50,
        "pixel_decoder": {"dim": 7, "hidden": 32, "multipliers": [2, 1, 3], "blocks": 1},
    },
}  # fmt: skip
SINGLE_VQ = {
    "image_size": [32, 64],
    "length": 7,
    "encoder": {"type": "latent-tokens", "width": 24, "depth": 2, "heads": 1, "patch": 16},
    "quantizer": {"type": "vq", "codebook_size": 33, "dim": 9, "l2_norm": False},
    "decoder": {"type": "vit", "width": 40, "depth": 1, "heads": 5, "patch": 8},
}
GUIDED_VAE = {
    "image_size": 32,
    "length": 3,
    "encoder": {"type": "latent-tokens", "width": 64, "depth": 1, "heads": 4, "patch": 8},
    "quantizer": {"type": "kl", "dim": 4, "weight": 2e-6},
    "decoder": {"type": "vit", "width": 48, "depth": 1, "heads": 2, "patch": 8, "text": {"width": 10, "length": 6}},
}
MODELS = {"two-stage": TWO_STAGE, "single-vq": SINGLE_VQ, "guided-vae": GUIDED_VAE}


def export(model):
    """A tokenizer's state under the reference's names."""
    legacy, found = model.config.decoder.head == "proxy-codes", {}
    for name, value in model.state_dict().items():
        for pattern, replacement in BACK:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"^decoder\.head\.", "decoder.ffn.", name)
        if not legacy:
            name = name.replace("decoder.ffn.2.", "decoder.conv_out.")
        found[name] = value[..., None, None] if name == "encoder.conv_out.weight" else value
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def settings(model, **more):
    """The config under which the reference would have made this model."""
    config = model.config
    vae, second = config.quantizer.type == "kl", getattr(config.decoder, "pixel_decoder", None) is not None
    vq = {
        "quantize_mode": "vae" if vae else "vq",
        "token_size": config.quantizer.dim,
        "vit_enc_model_size": "odd",
        "vit_dec_model_size": "tinyish",
        "vit_enc_patch_size": config.encoder.patch,
        "vit_dec_patch_size": config.decoder.patch,
        "num_latent_tokens": config.length,
        "finetune_decoder": second,
        "is_legacy": config.encoder.legacy,
    }
    if not vae:
        vq |= {"codebook_size": config.quantizer.codebook_size, "use_l2_norm": config.quantizer.l2_norm}
        vq |= {"commitment_cost": config.quantizer.commitment}
    if config.decoder.text is not None:
        vq |= {"text_embed_dim": config.decoder.text.width, "text_context_length": config.decoder.text.length}
    size = list(config.image_size)
    crop = size[0] if size[0] == size[1] else size
    losses = {"losses": {"kl_weight": config.quantizer.weight}} if vae else {}
    return {"model": {"vq_model": vq | more}, "dataset": {"preprocessing": {"crop_size": crop}}, **losses}


def build(raw):
    torch.manual_seed(0)
    model = Tokenizer(TokenizerConfig.read(raw)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def case_of(model):
    """A case of use as the golden folders have it, by the model's own parts."""
    config, rows = model.config, torch.arange(2)
    images, rng = torch.rand(2, 3, *config.image_size), Rng(0, rows)
    keep = torch.ones(2, config.length, dtype=torch.bool)
    case, condition = {"images": images}, None
    if config.decoder.text is not None:
        case["text_guidance"] = torch.randn(2, config.decoder.text.length, config.decoder.text.width)
        condition = Condition(torch.zeros(2, dtype=torch.bool), embeddings=case["text_guidance"])
    with torch.no_grad():
        features = model.encoder(images, keep)
        z, quantized = model.quantizer.project(features), model.quantizer(features, keep, rng=rng)
        tokens = Tokens(quantized.values, keep, quantized.codes)
        pixels = model.decoder(tokens, Batch(rows, condition=condition), taps=frozenset(), rng=rng).reconstruction
    case["enc_z"] = z.transpose(1, 2)[:, :, None]
    if config.quantizer.type == "kl":
        case["mean"], case["logvar"] = (half.transpose(1, 2)[:, :, None] for half in model.quantizer.posterior(z))
        return case | {"pixels_mode": pixels}
    case["indices"], case["z_quantized"] = quantized.codes.transpose(1, 2), quantized.values.transpose(1, 2)[:, :, None]
    case["commitment_loss"] = quantized.losses["commitment"].mean()[None]
    return case | {
        "stage2_pixels" if config.decoder.gives == "logits" else "pixels": pixels,
        "decode_tokens_pixels": pixels.clone(),
    }


def write(folder, model, **more):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(export(model), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings(model, **more)))
    return folder


def edit(folder, change):
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def converted(path, **options):
    source = open_foreign(path, **options)
    return importer_of(source).convert(source)


@pytest.fixture(params=MODELS)
def made(request, tmp_path):
    model = build(MODELS[request.param])
    folder = write(tmp_path / request.param, model)
    save_file({name: t.contiguous() for name, t in case_of(model).items()}, folder / "case_eval.safetensors")
    return model, folder


@pytest.fixture
def folder(tmp_path):
    """A two-stage checkpoint whose heads are given, without cases."""
    return write(tmp_path / "two-stage", build(TWO_STAGE), vit_enc_heads=4, vit_dec_heads=3)


@pytest.fixture
def plain(tmp_path):
    """A single-stage checkpoint whose heads are given, without cases."""
    return write(tmp_path / "single", build(SINGLE_VQ), vit_enc_heads=1, vit_dec_heads=5)


def refused(path, match, **options):
    with pytest.raises(ConfigError, match=match) as told:
        load(path, **options)
    assert len(str(told.value).splitlines()) == 1
    return told.value.problems


# --- round trips -------------------------------------------------------------------------------------------------


def test_names_go_there_and_back(made):
    model, _ = made
    state = model.state_dict()
    back = convert(export(model))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def unread(config):
    """A config without what the importer says of its texts."""
    return config.model_copy(update={"conditioner": None})


@pytest.mark.slow
def test_a_folder_of_another_shape_is_imported_whole_its_heads_found_by_its_case(made):
    model, folder = made
    found = converted(folder)
    assert unread(found.config) == model.config
    assert [note.split(":")[0] for note in found.notes] == [
        "encoder of unknown size 'odd'",
        "decoder of unknown size 'tinyish'",
    ]
    assert all("golden cases come out nearest" in note for note in found.notes)
    again = load(folder)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_every_tensor_is_compared_and_a_perturbed_weight_fails(made):
    model, folder = made
    heads = {"vit_enc_heads": model.config.encoder.heads, "vit_dec_heads": model.config.decoder.heads}
    edit(folder, lambda raw: raw["model"]["vq_model"].update(heads))  # else every import looks for them by the case
    found = verify_folder(folder)
    case = load_file(folder / "case_eval.safetensors")
    assert {c.tensor for c in found} == case.keys() - {"images", "text_guidance"}
    assert all(c.passed for c in found), [c for c in found if not c.passed]
    assert any(c.note == "encode, then decode" for c in found)

    state = load_file(folder / "model.safetensors")
    hit = {"encoder.transformer.0.mlp.c_fc.weight": "enc_z", "decoder.transformer.0.mlp.c_fc.weight": "pixels"}
    for name, shown in hit.items():
        spoiled = {**state, name: state[name].clone()}
        spoiled[name][0, 0] += 0.5
        save_file(spoiled, folder / "model.safetensors")
        failed = [c.tensor for c in verify_folder(folder) if not c.passed]
        assert any(shown in tensor for tensor in failed), (name, failed)


@pytest.mark.slow
def test_a_tensor_that_nothing_is_compared_with_fails(made):
    _, folder = made
    case = load_file(folder / "case_eval.safetensors")
    save_file({**case, "attention_maps": torch.zeros(2)}, folder / "case_eval.safetensors")
    (failed,) = (c for c in verify_folder(folder) if not c.passed)
    assert (failed.tensor, failed.note) == ("attention_maps", "nothing here is compared with it")


def test_a_training_case_of_another_shape(tmp_path):
    """Stage 1 on the stage-1 form of a two-stage checkpoint, with the stage-1 config's own weight of a loss."""
    model = build(TWO_STAGE)
    folder = write(tmp_path / "run", model, vit_enc_heads=4, vit_dec_heads=3)
    first = settings(model, vit_enc_heads=4, vit_dec_heads=3, finetune_decoder=False, commitment_cost=0.125)
    (folder / "config_stage1.json").write_text(json.dumps(first))
    raw = copy.deepcopy(TWO_STAGE)
    raw["decoder"]["pixel_decoder"], raw["quantizer"]["commitment"] = None, 0.125
    learner = Tokenizer(TokenizerConfig.read(raw)).train()
    learner.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("decoder.pixels.")})
    rows, images, codes = torch.arange(2), torch.rand(2, 3, 24, 24), torch.randint(50, (2, 36))
    out = learner(Batch(rows, images), rng=Rng(0, rows))
    quantizer = sum(loss.mean() for loss in out.losses.values())
    total = torch.nn.functional.cross_entropy(out.logits.flatten(2), codes) + quantizer
    total.backward()
    theirs = dict(zip(export(learner), learner.named_parameters(), strict=True))
    case = {"images": images, "target_codes": codes, "logits": out.logits.detach(), "total_loss": total.detach()[None]}
    case |= {f"grad.{there}": p.grad for there, (_, p) in theirs.items() if p.ndim < 2}
    save_file({name: t.contiguous() for name, t in case.items()}, folder / "case_step.safetensors")
    norms = {there: float(p.grad.norm()) for there, (_, p) in theirs.items()}
    (folder / "case_step_grad_norms.json").write_text(json.dumps(norms))
    found = verify_folder(folder)
    assert len(found) == len(case) - 2 + 1
    assert all(c.passed for c in found), [c for c in found if not c.passed]

    norms["latent_tokens"] *= 1.01
    (folder / "case_step_grad_norms.json").write_text(json.dumps(norms))
    assert [c.tensor for c in verify_folder(folder) if not c.passed] == ["gradient norms"]
    first["model"]["vq_model"]["codebook_size"] = 8
    (folder / "config_stage1.json").write_text(json.dumps(first))
    with pytest.raises(ConfigError, match=r"config_stage1.*another model than the config: .*codebook_size is 8"):
        verify_folder(folder)


# --- forms of a checkpoint ---------------------------------------------------------------------------------------


def test_stage_1_alone_gives_proxy_codes(folder):
    state = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in state.items() if not n.startswith("pixel_")}, folder / "model.safetensors")
    refused(folder, r"finetune_decoder: is true, but the checkpoint holds no tensors pixel_\*; say --assume")
    assumed = load(folder, assume={"model.vq_model.finetune_decoder": False})
    assert assumed.config.decoder.gives == "logits"
    edit(folder, lambda raw: raw["model"]["vq_model"].update(finetune_decoder=False))
    assert load(folder).config == assumed.config


def test_stage_2_under_the_config_of_stage_1_is_refused_until_its_tensors_are_dropped(folder):
    edit(folder, lambda raw: raw["model"]["vq_model"].update(finetune_decoder=False))
    refused(
        folder, r"is false, but the checkpoint holds tensors pixel_\*; .*--drop pixel_decoder --drop pixel_quantize"
    )
    assert load(folder, drop=["pixel_decoder", "pixel_quantize"]).config.decoder.gives == "logits"


def test_a_bin_with_its_yaml_beside_it(folder, tmp_path):
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "titok.bin")
    vq = json.dumps(settings(build(TWO_STAGE))["model"]["vq_model"]).replace("true", "True")
    text = f"experiment:\n    output_dir: x\nmodel:\n    vq_model: {vq}\n"
    text += "dataset:\n    preprocessing:\n        crop_size: 24\n"
    (tmp_path / "titok.yaml").write_text(text)
    found = load(
        tmp_path / "titok.bin", assume={f"model.vq_model.vit_{s}_heads": n for s, n in (("enc", 4), ("dec", 3))}
    )
    assert found.config == build(TWO_STAGE).config


def test_a_bin_without_config_says_what_to_do_and_loads_by_its_card(folder, tmp_path, monkeypatch, shelf):
    path = tmp_path / "titok.bin"
    torch.save(load_file(folder / "model.safetensors"), path)
    refused(path, r"has no config\. Put the yaml .* beside it, as titok\.yaml .*or name a card")
    monkeypatch.setattr(hub, "fetch", lambda repo, revision=None, file=None: (tmp_path / file, "c0ffee"))
    shelf({"summary": "x", "model": TWO_STAGE, "weights": {"hub": "some/one", "file": "titok.bin"}})
    model = load("shelf/model")
    assert model.config == build(TWO_STAGE).config
    assert torch.equal(
        model.state_dict()["encoder.latent_tokens"], load_file(folder / "model.safetensors")["latent_tokens"]
    )
    shelf({"summary": "x", "model": SINGLE_VQ, "weights": {"hub": "some/one", "file": "titok.bin"}})
    refused("shelf/model", "its tensors do not fit its config")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Makes one card, `shelf/model`, the only one installed."""
    from ruamel.yaml import YAML

    from flexframe_registry.cards import Cards

    def put(card):
        path = tmp_path / "shelf.yaml"
        with path.open("w") as file:
            YAML().dump(card, file)
        known = Cards({"shelf/model": path})
        monkeypatch.setattr("flexframe.store.places.cards", lambda: known)

    return put


def test_a_card_that_says_otherwise_is_told(folder, tmp_path, monkeypatch, shelf, caplog):
    monkeypatch.setattr(hub, "fetch", lambda repo, revision=None, file=None: (folder, "c0ffee"))
    raw = copy.deepcopy(TWO_STAGE)
    raw["quantizer"]["commitment"] = 0.25
    shelf({"summary": "x", "model": raw, "weights": {"hub": "some/one"}})
    with caplog.at_level(logging.WARNING, "flexframe"):
        assert load("shelf/model").config.quantizer.commitment == 0.5
    assert "its config is not the card's, and counts: quantizer.commitment 0.5 (card: 0.25)" in caplog.text


def test_a_whole_training_config_is_accepted(folder):
    """The hub holds some models' training yaml: what says how it was trained is read past, knowingly."""

    def grow(raw):
        raw["model"]["vq_model"]["pretrained_tokenizer_weight"] = "maskgit-vqgan-imagenet-f16-256.bin"
        raw["model"]["generator"] = {"hidden_size": 768, "image_seq_len": "${model.vq_model.num_latent_tokens}"}
        raw["dataset"]["params"] = {"train_shards_path_or_url": "x-{000..252}.tar"}
        raw["dataset"]["preprocessing"] |= {"resize_shorter_edge": 24, "random_crop": True, "random_flip": True}
        raw["experiment"] = {"project": "p", "init_weight": "titok_l_32_stage1.bin"}
        raw["losses"] = {"discriminator_start": 20000, "perceptual_loss": "convnext_s"}
        raw["optimizer"] = {"name": "adamw", "params": {"learning_rate": 1e-4}}
        raw["lr_scheduler"] = {"scheduler": "cosine"}
        raw["training"] = {"use_ema": True}

    before = load(folder).config
    edit(folder, grow)
    assert load(folder).config == before


def test_statistics_of_a_clustering_codebook_are_left_away_and_told(plain):
    state = load_file(plain / "model.safetensors")
    save_file({**state, "quantize.embed_prob": torch.rand(33)}, plain / "model.safetensors")
    edit(plain, lambda raw: raw["model"]["vq_model"].update(clustering_vq=True, scale_factor=0.7525))
    found = converted(plain)
    assert found.config == build(SINGLE_VQ).config
    told = " ".join(found.notes)
    assert "statistics are left away" in told
    assert "scale_factor 0.7525 is for a generator" in told


# --- heads -------------------------------------------------------------------------------------------------------


def test_heads_that_nothing_shows_are_asked_for(tmp_path):
    folder = write(tmp_path, build(TWO_STAGE))
    problems = refused(folder, r"no tensor shows it: 'odd' is none of small, base, large.*--assume model\.vq_model")
    assert problems[0][0] == "model.vq_model.vit_enc_heads"
    assume = {"model.vq_model.vit_enc_heads": 4, "model.vq_model.vit_dec_heads": 3}
    assert load(folder, assume=assume).config == build(TWO_STAGE).config
    refused(folder, "width 48 is not divisible by its 5 heads", assume={**assume, "model.vq_model.vit_enc_heads": 5})


def test_heads_that_a_case_does_not_tell_apart_are_the_usual_ones():
    """Ids alone say little of an encoder: what does as well is not taken for found."""
    assert choose({1: 0.0, 2: 0.0, 4: 0.0, 8: 0.5}, 64, 32)[0] == 2
    assert choose({1: 3e-6, 2: 0.1, 4: 2e-6}, 256, 64)[0] == 4
    best, told = choose({3: 0.2, 1: 1e-6}, 96, 32)
    assert best == 1
    assert told == "its golden cases come out nearest with 1 (relative error 1e-06, with others at least 2e-01)"
    assert choose({1: 0.0, 2: 0.0}, 64, 32)[1].endswith("(relative error 0e+00); they do not tell it from 1")


def test_names_that_start_with_tiny_have_32_channels_a_head(tmp_path):
    raw = copy.deepcopy(GUIDED_VAE)
    raw["decoder"] |= {"width": 96, "heads": 3}
    folder = write(tmp_path, build(raw), vit_enc_model_size="tiny")
    found = converted(folder)
    assert (found.config.encoder.heads, found.config.decoder.heads) == (2, 3)
    assert "encoder of unknown size 'tiny': 2 heads, as sizes named tiny have 32 channels a head" in found.notes


def test_a_published_width_under_another_name_has_the_published_heads(tmp_path):
    raw = copy.deepcopy(GUIDED_VAE)
    raw["encoder"] |= {"width": 512, "heads": 8}
    found = converted(write(tmp_path, build(raw), vit_dec_heads=2))
    assert found.config.encoder.heads == 8
    assert found.notes == ("encoder of unknown size 'odd': 8 heads, as the published size of width 512 has as many",)


@pytest.mark.slow
def test_a_known_size_counts_and_must_be_what_the_tensors_are(tmp_path):
    raw = copy.deepcopy(GUIDED_VAE)
    raw["encoder"] |= {"width": 512, "depth": 8, "heads": 8}
    folder = write(tmp_path, build(raw), vit_enc_model_size="small", vit_dec_heads=2)
    found = converted(folder)
    assert unread(found.config) == TokenizerConfig.read(raw)
    assert found.notes == ()
    assert (found.config.conditioner.type, found.config.conditioner.form) == ("clip", "-padded")
    assert (found.config.conditioner.width, found.config.conditioner.length) == (10, 6)
    edit(folder, lambda raw: raw["model"]["vq_model"].update(vit_enc_model_size="base"))
    refused(folder, "vit_enc_model_size: is 'base', 768 wide and 12 deep, but the tensors are 512 wide and 8 deep")
    edit(folder, lambda raw: raw["model"]["vq_model"].update(vit_enc_model_size="small", vit_enc_heads=4))
    refused(folder, "vit_enc_heads: is 4, but size 'small' has 8")


# --- what is refused ---------------------------------------------------------------------------------------------


def test_unknown_settings_are_listed_with_path_and_value(plain):
    def grow(raw):
        raw["model"]["vq_model"]["rope"] = True
        raw["model"]["adapter"] = {"rank": 4}
        raw["dataset"]["preprocessing"]["interpolation"] = "lanczos"
        raw["precision"] = "fp8"

    edit(plain, grow)
    problems = dict(refused(plain, "is unknown here"))
    assert problems.keys() == {
        "model.vq_model.rope", "model.adapter", "dataset.preprocessing.interpolation", "precision",
    }  # fmt: skip
    assert problems["model.adapter"].startswith("{'rank': 4} is unknown here")
    assert load(plain, drop=list(problems)).config == build(SINGLE_VQ).config


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        ({"codebook_size": 34}, "codebook_size", r"is 34, but tensor quantize\.embedding\.weight has shape \(33, 9\)"),
        ({"token_size": 8}, "token_size", r"is 8, but tensor encoder\.conv_out\.weight has shape \(9, 24, 1, 1\)"),
        ({"num_latent_tokens": 8}, "num_latent_tokens", r"is 8, but tensor latent_tokens has shape \(7, 24\)"),
        ({"vit_enc_patch_size": 8}, "vit_enc_patch_size", r"is 8, but tensor encoder\.patch_embed\.weight"),
        ({"quantize_mode": "fsq"}, "quantize_mode", "is 'fsq', which is not supported.*Supported: 'vq', 'vae'"),
        ({"quantize_mode": "vae"}, "token_size", "is 9, but tensor encoder.conv_out.weight"),
        ({"finetune_decoder": True}, "finetune_decoder", "only a legacy model with a codebook has a second stage"),
        ({"use_l2_norm": "yes"}, "use_l2_norm", "is 'yes'; expected bool"),
        ({"text_context_length": 77}, "text_context_length", "is set, but the checkpoint holds no tensors of text"),
        ({"is_legacy": True}, None, "has no tensor 'decoder.ffn.2.weight'"),
    ],
)  # fmt: skip
def test_settings_that_are_not_supported_or_not_the_tensors(plain, change, path, text):
    edit(plain, lambda raw: raw["model"]["vq_model"].update(change))
    problems = refused(plain, text)
    if path is not None:
        assert problems[0][0] == f"model.vq_model.{path}"


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        ({"crop_size": 64}, "crop_size", "64 x 64 in patches of 16 are 16, but tensor encoder.positional_embedding"),
        ({"crop_size": [8, 8, 8]}, "crop_size", "expected one number, or height and width"),
        ({"resize_shorter_edge": 40}, "resize_shorter_edge", "is 40, which is not supported"),
        ({"normalize_mean": [0.5, 0.5, 0.5]}, "normalize_mean", "is not supported"),
    ],
)  # fmt: skip
def test_preprocessing_that_is_not_ours(plain, change, path, text):
    edit(plain, lambda raw: raw["dataset"]["preprocessing"].update(change))
    problems = refused(plain, text)
    assert problems[0][0] == f"dataset.preprocessing.{path}"


@pytest.mark.parametrize("key", ["token_size", "use_l2_norm", "commitment_cost", "vit_enc_model_size"])
def test_a_missing_setting_is_asked_for(plain, key):
    edit(plain, lambda raw: raw["model"]["vq_model"].pop(key))
    problems = refused(plain, "is not given; if you know it, say --assume")
    assert problems[0][0] == f"model.vq_model.{key}"


def test_missing_and_surplus_tensors_are_all_listed_by_the_checkpoint_s_names(plain):
    state = load_file(plain / "model.safetensors")
    del state["encoder.ln_pre.bias"]
    save_file({**state, "decoder.extra": torch.zeros(1)}, plain / "model.safetensors")
    refused(plain, r"left over decoder\.extra; missing encoder\.ln_pre\.bias")


def test_text_that_is_not_as_long_as_the_config_says(tmp_path):
    folder = write(tmp_path, build(GUIDED_VAE), vit_enc_heads=4, vit_dec_heads=2)
    edit(folder, lambda raw: raw["model"]["vq_model"].pop("text_context_length"))
    refused(
        folder,
        r"text_context_length: is 77, but tensor decoder\.text_guidance_positional_embedding has shape \(6, 48\)",
    )


@parametrize_refusals()
def test_what_is_broken_or_hostile_is_refused(refusal, folder):
    refusal(folder)


def test_names_in_a_config_build_nothing(folder):
    edit(
        folder,
        lambda raw: raw["model"].update(_target_="os.system", vq_model={**raw["model"]["vq_model"], "_target_": "x"}),
    )
    problems = dict(refused(folder, "is unknown here"))
    assert problems.keys() == {"model._target_", "model.vq_model._target_"}


# --- published weights -------------------------------------------------------------------------------------------

KNOWN = """
887 3979 349 720 2809 2743 2101 603 2205 1508 1891 4015 1317 2956 3774 2296
484 2612 3472 2330 3140 3113 1056 3779 654 2360 1901 2908 2169 953 1326 2598
"""
"""TiTok-L-32's tokens of its repository's assets/ILSVRC2012_val_00010240.png, as its README gives them."""


@pytest.mark.slow
@pytest.mark.skipif("FLEXFRAME_TITOK_IMAGE" not in os.environ, reason="set FLEXFRAME_TITOK_IMAGE to that png")
def test_the_published_tokens_of_one_image():
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    try:
        model = flexframe.load("titok/l-32")
    except ConfigError as error:
        pytest.skip(f"the weights are not at hand: {error}")
    image = pil_to_tensor(Image.open(os.environ["FLEXFRAME_TITOK_IMAGE"]).convert("RGB"))[None] / 255
    assert model.encode(image).codes.flatten().tolist() == [int(code) for code in KNOWN.split()]


@pytest.mark.parametrize("name", [n for n in cards().names() if n.split("/")[0] in ("titok", "tatitok")])
def test_cards_of_published_models_say_where_they_are_from(name):
    file = cards().get(name).file
    if file.weights.hub is None:
        return  # trained here
    assert file.licence == "Apache-2.0" or (file.licence or "").startswith("Apache-2.0 (code); of the weights: ")
    assert "arXiv" in file.source
    assert "1d-tokenizer" in file.source
    assert all("published" in metric["origin"] for metric in file.metrics.values())
    assert file.verified or "unverified" in file.summary
    assert file.preprocessing.resize == "torchvision-bicubic"
