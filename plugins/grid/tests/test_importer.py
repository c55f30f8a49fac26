"""The importers of MaskGIT-VQGAN and TAEF2: forms, shapes that no golden folder has, what is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flexframe.importing import importer_of, open_foreign
from flexframe.importing.verify import verify_folder
from flexframe.models.codec import CodecModel
from flexframe.models.tokenizer import Tokenizer
from flexframe.nn.convolutional import shape_of
from flexframe.rng import Rng
from flexframe.store import hub
from flexframe.store.load import load
from flexframe.testing.golden import shared
from flexframe.testing.refusals import parametrize_refusals
from flexframe_grid.reference import convert
from flexframe_registry import CodecModelConfig, ConfigError, TokenizerConfig, cards

# a level wider than the next, a first level wider than the base, images that are not square
ODD = {
    "image_size": [24, 40],
    "length": 60,
    "encoder": {"type": "vqgan", "hidden": 32, "multipliers": [2, 1, 2], "blocks": 1},
    "quantizer": {"type": "vq", "codebook_size": 37, "dim": 9, "l2_norm": False},
    "decoder": {"type": "vqgan", "hidden": 32, "multipliers": [2, 1, 2], "blocks": 1},
}
SETTINGS = {
    "channel_mult": [2, 1, 2],
    "num_resolutions": 3,
    "dropout": 0.0,
    "hidden_channels": 32,
    "num_channels": 3,
    "num_res_blocks": 1,
    "resolution": 24,
    "z_channels": 9,
    "num_embeddings": 37,
    "embedding_dim": 9,
}
BACK = (
    (r"^quantizer\.project\.", "encoder.conv_out."),
    (r"^(encoder|decoder)\.net\.", r"\1."),
    (r"^quantizer\.codebook\.embedding\.", "quantize.embedding."),
)
"""Our names to the reference's."""


def build(raw=ODD):
    torch.manual_seed(0)
    model = Tokenizer(TokenizerConfig.read(raw)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
        model.quantizer.codebook.embedding.weight.normal_(std=0.3)
    return model


def export(model):
    """A tokenizer's state under the reference's names."""
    found = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in BACK:
            name = re.sub(pattern, replacement, name)
        found[name] = value[..., None, None] if name == "encoder.conv_out.weight" else value
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


@torch.no_grad()
def case_of(model):
    images, keep = torch.rand(2, 3, *model.config.image_size), torch.ones(2, model.config.length, dtype=torch.bool)
    z = model.quantizer.project(model.encoder(images, keep))
    tokens = model.encode(images)
    grid = z.transpose(1, 2).unflatten(2, model.decoder.grid)
    pixels = model.decode(tokens).contiguous()
    return {
        "images": images,
        "enc_out": grid.contiguous(),
        "codes": tokens.codes[..., 0],
        "decoded_clamped_0_1": pixels,
    }


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of another shape, with a case on images that are not of the config's resolution."""
    model = build()
    save_file(export(model), tmp_path / "model.safetensors")
    save_file(case_of(model), tmp_path / "case.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    return tmp_path


def edit(folder, **changes):
    (folder / "config.json").write_text(json.dumps(SETTINGS | changes))


def refused(path, match, **options):
    with pytest.raises(ConfigError, match=match) as told:
        load(path, kind=None, **options)
    assert len(str(told.value).splitlines()) == 1
    return dict(told.value.problems)


def converted(path, **options):
    source = open_foreign(path, **options)
    return importer_of(source).convert(source)


# --- MaskGIT-VQGAN -----------------------------------------------------------------------------------------------


def test_names_go_there_and_back():
    state = build().state_dict()
    back = convert(export(build()))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_folder_of_another_shape(folder):
    found = converted(folder)
    assert found.config.image_size == (24, 24)
    assert found.config.encoder == build().config.encoder
    assert found.config.decoder == build().config.decoder
    assert found.notes == ()
    compared = verify_folder(folder)
    assert {c.tensor for c in compared} == {"enc_out", "codes", "decoded_clamped_0_1"}
    assert all(c.passed for c in compared), compared


@pytest.mark.parametrize(
    ("name", "shown"),
    [("encoder.mid.0.conv1.weight", "enc_out"), ("decoder.mid.0.conv1.weight", "decoded_clamped_0_1"),
     ("quantize.embedding.weight", "decoded_clamped_0_1")],
)  # fmt: skip
def test_a_perturbed_weight_fails(folder, name, shown):
    state = load_file(folder / "model.safetensors")
    state[name] = state[name].clone()
    state[name].flatten()[::7] += 0.05
    save_file(state, folder / "model.safetensors")
    assert shown in [c.tensor for c in verify_folder(folder) if not c.passed]


def test_a_tensor_that_nothing_is_compared_with_fails(folder):
    save_file(load_file(folder / "case.safetensors") | {"logits": torch.zeros(2)}, folder / "case.safetensors")
    assert [c.tensor for c in verify_folder(folder) if not c.passed] == ["logits"]


def test_the_published_file_has_no_config(folder, tmp_path, monkeypatch):
    """As `maskgit-vqgan-imagenet-f16-256.bin` comes: a bare state dict; its resolution is assumed and told."""
    bare = tmp_path / "bare"
    bare.mkdir()
    path = bare / "vqgan.bin"
    torch.save(load_file(folder / "model.safetensors"), path)
    found = converted(path)
    assert found.config.image_size == (256, 256)
    assert found.notes == (
        "it names no resolution; 256 is assumed, the published model's (--assume resolution=N for another)",
    )
    assert load(path, assume={"resolution": 40}).config.image_size == (40, 40)
    monkeypatch.setattr(hub, "fetch", lambda repo, revision=None, file=None: (path, "c0ffee"))
    card = cards().get("grid/maskgit-vqgan")
    assert (card.file.weights.hub, card.file.weights.file) == (
        "fun-research/TiTok",
        "maskgit-vqgan-imagenet-f16-256.bin",
    )
    assert load("grid/maskgit-vqgan").config.image_size == (256, 256)


def test_the_published_shape_is_the_card_s():
    """Every tensor of the published network, by name and shape, gives the card's model."""
    config = cards().get("grid/maskgit-vqgan").model
    with torch.device("meta"):
        model = Tokenizer(config)
    shapes = {name: tuple(value.shape) for name, value in export(model).items()}
    for side in ("encoder", "decoder"):
        own = {n.removeprefix(f"{side}."): s for n, s in shapes.items() if n.startswith(f"{side}.")}
        assert shape_of(own) == (128, (1, 1, 2, 2, 4), 2)


@pytest.mark.parametrize(
    ("changes", "path", "text"),
    [
        ({"num_embeddings": 38}, "num_embeddings", "is 38, but the tensors have 37"),
        ({"embedding_dim": 8}, "embedding_dim", "is 8, but the tensors have 9"),
        ({"z_channels": 8}, "z_channels", "is 8, but the tensors have 9"),
        ({"hidden_channels": 64}, "hidden_channels", "is 64, but the tensors have 32"),
        ({"channel_mult": [1, 1, 2]}, "channel_mult", r"is \[1, 1, 2\], but the tensors have \[2, 1, 2\]"),
        ({"num_res_blocks": 2}, "num_res_blocks", "is 2, but the tensors have 1"),
        ({"num_resolutions": 4}, "num_resolutions", "is 4, but the tensors have 3"),
        ({"dropout": 0.1}, "dropout", "is 0.1, which is not supported"),
        ({"resolution": 0}, "resolution", "expected at least 1"),
        ({"attn_resolutions": [16]}, "attn_resolutions", r"\[16\] is unknown here.*--drop attn_resolutions"),
    ],
)
def test_a_config_that_is_not_the_tensors(folder, changes, path, text):
    edit(folder, **changes)
    assert list(refused(folder, text)) == [path]


def test_a_resolution_that_does_not_divide_is_refused(folder):
    edit(folder, resolution=22)
    refused(folder, "do not divide latents of 22 x 22")


def test_missing_tensors_are_listed_by_the_checkpoint_s_names(folder):
    state = load_file(folder / "model.safetensors")
    del state["encoder.norm_out.bias"]
    save_file(state | {"decoder.extra": torch.zeros(1)}, folder / "model.safetensors")
    refused(folder, r"left over decoder\.net\.extra \(there decoder\.extra\); missing encoder\.net\.norm_out\.bias")


def test_a_file_without_one_of_its_networks_is_refused(folder):
    state = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in state.items() if not n.startswith("encoder.down")}, folder / "model.safetensors")
    refused(folder, "encoder: has no tensors down")


@parametrize_refusals()
def test_what_is_broken_or_hostile_is_refused(refusal, folder):
    refusal(folder)


# --- TAEF2 -------------------------------------------------------------------------------------------------------

SMALL = {"type": "taef2", "channels": 5, "width": 12, "blocks": 2}


def taef2():
    torch.manual_seed(0)
    return CodecModel(CodecModelConfig.read({"codec": SMALL}))


def sides(model):
    state = {side: {} for side in ("encoder", "decoder")}
    for name, value in model.state_dict().items():
        _, side, rest = name.split(".", 2)
        state[side][rest] = value.half().contiguous()
    return state


@pytest.fixture
def halves(tmp_path):
    for side, state in sides(taef2()).items():
        save_file(state, tmp_path / f"taef2-{side}.safetensors")
    return tmp_path


def same_codec(model):
    assert model.config.codec == CodecModelConfig.read({"codec": SMALL}).codec
    for name, value in taef2().state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float()), name


def test_two_halves_by_their_folder_or_by_either_file(halves):
    save_file({"x": torch.zeros(1)}, halves / "another.safetensors")
    for path in (halves, halves / "taef2-encoder.safetensors", halves / "taef2-decoder.safetensors"):
        same_codec(load(path, kind="codec"))


def test_halves_as_the_repository_has_them(tmp_path):
    for side, state in sides(taef2()).items():
        torch.save(state, tmp_path / f"taef2_{side}.pth")
    same_codec(load(tmp_path, kind="codec"))


@pytest.mark.parametrize("layers", ["layers.", ""])
def test_one_file_as_on_the_hub(tmp_path, layers):
    """diffusers names a side's steps `layers` and does not count the decoder's first, which clamps."""
    whole = {}
    for side, state in sides(taef2()).items():
        for name, value in state.items():
            place, rest = name.split(".", 1)
            whole[f"{side}.{layers}{int(place) - (1 if layers and side == 'decoder' else 0)}.{rest}"] = value
    path = tmp_path / "taef2.safetensors"
    save_file(whole, path)
    same_codec(load(path, kind="codec"))
    save_file({**whole, "vae_scale": torch.zeros(1)}, path)
    refused(path, "vae_scale: is no tensor of TAEF2; --drop vae_scale")


def test_one_half_alone_is_refused(halves, tmp_path):
    (halves / "taef2-decoder.safetensors").unlink()
    refused(halves, "holds one half of TAEF2; put the other beside it, as decoder where this one's name says encoder")
    shutil.move(halves / "taef2-encoder.safetensors", halves / "x.safetensors")
    refused(halves / "x.safetensors", "holds one half of TAEF2")


def test_its_elder_relatives_are_not_taken_for_it(tmp_path):
    for side, state in sides(taef2()).items():
        save_file({n: t for n, t in state.items() if ".pool." not in n}, tmp_path / f"taesd-{side}.safetensors")
    refused(tmp_path, "is of no format known here")


def test_a_config_beside_it_is_not_passed_over(halves):
    (halves / "config.json").write_text('{"scaling_factor": 0.5}')
    assert refused(halves, "0.5 is unknown here") == {
        "scaling_factor": "0.5 is unknown here, so what it changes is too; --drop scaling_factor to go without it"
    }


def test_left_over_tensors_are_told_by_file(halves):
    path = halves / "taef2-encoder.safetensors"
    save_file(load_file(path) | {"99.conv.0.weight": torch.zeros(1)}, path)
    refused(halves, r"left over codec\.encoder\.99\.conv\.0\.weight \(there taef2-encoder\.safetensors: 99")


DATA = shared(Path(__file__)) / "data"


@pytest.mark.slow
@pytest.mark.skipif(
    not (DATA / "taef2-encoder.safetensors").is_file(), reason=f"no TAEF2 at {DATA}; set FLEXFRAME_SHARED"
)
def test_the_card_ships_the_published_files_to_the_bit():
    published, shipped = load(DATA, kind="codec"), load("grid/taef2", kind="codec")
    assert published.config == shipped.config == cards().get("grid/taef2").described
    assert published.state_dict().keys() == shipped.state_dict().keys()
    for name, value in published.state_dict().items():
        assert torch.equal(value, shipped.state_dict()[name]), name


def test_its_licence_is_beside_it_and_it_encodes_without_a_download():
    card = cards().get("grid/taef2")
    notice = (card.folder / "taef2.LICENSE").read_text()
    assert "Permission is hereby granted" in notice
    assert "Ollin Boer Bohan" in notice
    assert card.file.licence.startswith("MIT")
    model = load("grid/taef2", kind="codec")
    assert model.encode(torch.rand(1, 3, 64, 64), rng=Rng(0, torch.arange(1))).shape == (1, 32, 8, 8)
