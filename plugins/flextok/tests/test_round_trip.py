"""Golden folders of another shape, made here: a second FlexTok, written from the description of the format.

It knows nothing of this package: it computes on the file's own tensors, by the file's names, one sample at a time, with
attention written out. What it computes is written as cases, and the importer must give the same of its own accord.
"""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from flexframe import load
from flexframe.importing.compare import cases
from flexframe.importing.verify import verify_folder
from flexframe.testing.parity import check
from flexframe_registry import ConfigError

pytestmark = pytest.mark.slow

ENCODER, DECODER = "encoder.module_dict", "decoder.module_dict"


def table(rows, columns, dim):
    """A stored table of positions: cells numbered column by column, each number read as one of row by row."""
    quarter = dim // 4
    omega = [10000 ** (-k / quarter) for k in range(quarter)]
    numbered = [(x, y) for x in range(columns) for y in range(rows)]
    cells = [[f(at * o) for at in cell for f in (math.sin, math.cos) for o in omega] for cell in numbered]
    return torch.tensor(cells, dtype=torch.float64).float().reshape(rows, columns, dim)


class Other:
    """A FlexTok over a state dict."""

    def __init__(self, shape, state, max_timestep=None):
        self.shape, self.state, self.max_timestep = shape, state, max_timestep or shape.max_timestep

    def linear(self, x, name):
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def attention(self, x, name, allowed):
        size = self.shape.head_dim
        q, k, v = (self.linear(x, f"{name}.{w}").reshape(len(x), -1, size).transpose(0, 1) for w in ("wq", "wk", "wv"))
        q, k = norm(q), norm(k)
        scores = (q @ k.transpose(1, 2) * 8 / size).masked_fill(~allowed, -torch.inf)
        return self.linear((scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), -1), f"{name}.proj")

    def mlp(self, x, name):
        return self.linear(F.silu(self.linear(x, f"{name}.fc1")) * self.linear(x, f"{name}.fc3"), f"{name}.fc2")

    def patches(self, latents, root):
        """One sample `c h w` to `rows columns width`."""
        p, (h, w) = self.shape.patch, latents.shape[1:]
        cells = [
            torch.cat([latents[:, y * p + i, x * p + j] for i in range(p) for j in range(p)])
            for y in range(h // p)
            for x in range(w // p)
        ]
        x = self.linear(torch.stack(cells), f"{root}.patches.patch_proj").reshape(h // p, w // p, -1)
        stored = self.state[f"{root}.places.posembs"]
        if self.shape.positions == "interpolate":
            stored = F.interpolate(stored, size=x.shape[:2], mode="bilinear", align_corners=True)
        return x + stored[0, :, : x.shape[0], : x.shape[1]].permute(1, 2, 0)

    def encode(self, latents):
        """Token values of one sample, and the sequence before and after each block."""
        patches = self.patches(latents, ENCODER).flatten(0, 1)
        x = torch.cat([patches, self.state[f"{ENCODER}.learned.registers"]])
        number = torch.arange(len(x))
        allowed = (number < len(patches)) | (number <= number[:, None])
        seen = [x]
        for i in range(self.shape.depth[0]):
            block = f"{ENCODER}.trunk.blocks.{i}"
            x = x + self.attention(norm(x), f"{block}.attn", allowed)
            x = x + self.mlp(norm(x), f"{block}.mlp")
            seen.append(x)
        return self.linear(norm(x[len(patches) :]), f"{ENCODER}.head.proj"), seen, allowed

    def bounded(self, z):
        levels = torch.tensor(self.shape.levels)
        half, offset = (levels - 1) * 1.001 / 2, torch.where(levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def quantize(self, z):
        """Values (straight-through) and ids."""
        widths = torch.tensor(self.shape.levels) // 2
        bounded = self.bounded(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        base = torch.tensor([math.prod(self.shape.levels[:i]) for i in range(len(widths))])
        return rounded / widths, ((bounded.round() + widths) * base).sum(-1).long()

    def lookup(self, ids):
        levels = torch.tensor(self.shape.levels)
        base = torch.tensor([math.prod(self.shape.levels[:i]) for i in range(len(levels))])
        return (ids[..., None] // base % levels - levels // 2) / (levels // 2)

    def time(self, t):
        frequencies = (1000 / self.max_timestep) * torch.exp(-math.log(256) * torch.arange(128) / 128)
        angle = t * frequencies  # up to 1000: in another order it rounds by 6e-5
        sinusoid = torch.cat([angle.cos(), angle.sin()])
        hidden = F.silu(self.linear(sinusoid, f"{DECODER}.clock.mlp.0"))
        return sinusoid, self.linear(hidden, f"{DECODER}.clock.mlp.2")

    def condition(self, values, keep, null):
        x = self.linear(values, f"{DECODER}.project.proj") + self.state[f"{DECODER}.order.posembs"][0, 0].T
        x = torch.where(torch.arange(len(x))[:, None] < keep, x, self.state[f"{DECODER}.shorten.dropout_mask_token"])
        return self.state[f"{DECODER}.null.nullcond"].expand_as(x) if null else x

    def velocity(self, noised, t, values, keep, null=False):
        """One sample's velocity, and the patches after the second block."""
        c, p = self.shape.channels, self.shape.patch
        patches, condition = self.patches(noised, DECODER), self.condition(values, keep, null)
        (rows, columns, width), emb = patches.shape, F.silu(self.time(t)[1])
        x = torch.cat([patches.flatten(0, 1), condition])
        split, allowed, inner = rows * columns, torch.ones(len(x), len(x), dtype=torch.bool), None
        for i in range(self.shape.depth[1]):
            block = f"{DECODER}.trunk.blocks.{i}"
            two = self.linear(emb, f"{block}.adaLN_modulation.1").reshape(2, 6, width)
            each = torch.cat([two[0].expand(split, 6, width), two[1].expand(len(condition), 6, width)])
            gate_attn, gate_mlp, shift_attn, scale_attn, shift_mlp, scale_mlp = each.unbind(1)
            x = x + gate_attn * self.attention(norm(x) * (1 + scale_attn) + shift_attn, f"{block}.attn", allowed)
            x = x + gate_mlp * self.mlp(norm(x) * (1 + scale_mlp) + shift_mlp, f"{block}.mlp")
            inner = x[:split].reshape(rows, columns, width) if i == 1 else inner
        shift, scale = self.linear(emb, f"{DECODER}.head.adaLN_modulation.1").chunk(2)
        cells = self.linear(norm(x[:split]) * (1 + scale) + shift, f"{DECODER}.head.proj")
        out = cells.reshape(rows, columns, p, p, c).permute(4, 0, 2, 1, 3).reshape(c, rows * p, columns * p)
        return out, inner

    def sample(self, noise, values, keep, steps, scale, apg=False):
        x, memory = noise, None
        for i in range(steps, 0, -1):
            t = torch.tensor(i / steps)
            v, _ = self.velocity(x, t, values, keep)
            g = scale(i / steps) if callable(scale) else scale
            if g != 1:
                null, _ = self.velocity(x, t, values, keep, null=True)
                v, memory = project(v, null, g, memory) if apg else (null + g * (v - null), None)
            x = x - v / steps
        return x


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-5)


def project(v, null, scale, memory, momentum=-0.5):
    """One step of adaptive projected guidance, and the running direction."""
    direction = v - null + (0 if memory is None else momentum * memory)
    limited = (direction * min(1.0, 2.5 / direction.norm())).double()
    unit = v.double() / v.double().norm()
    orthogonal = limited - (limited * unit).sum() * unit
    return v + (scale - 1) * orthogonal.float(), direction


# --- its cases ---------------------------------------------------------------------------------------------------


def normal(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def rows(run, *given):
    return torch.stack([run(*row) for row in zip(*given, strict=True)])


@torch.no_grad()
def case_encode(other, batch=3):
    latents = normal(batch, other.shape.channels, *other.size)
    found = [other.encode(x) for x in latents]
    z, length = torch.stack([z for z, _, _ in found]), len(found[0][1][0])
    whole = torch.zeros([-(-batch * length // 128) * 128] * 2, dtype=torch.bool)
    for i, (_, _, allowed) in enumerate(found):
        whole[i * length : (i + 1) * length, i * length : (i + 1) * length] = allowed
    blocks = [torch.cat([seen[i] for _, seen, _ in found])[None] for i in range(1 + other.shape.depth[0])]
    values, ids = other.quantize(z)
    return {
        "vae_latents": latents,
        "enc_packed_in": blocks[0],
        **{f"enc_block{i}_out": block for i, block in enumerate(blocks[1:])},
        "enc_attn_mask": whole,
        "enc_z": z,
        "fsq_bounded": other.bounded(z),
        "fsq_quants": values,
        "tokens": ids,
    }


@torch.no_grad()
def case_decode(other, batch=3):
    shape, x, t = other.shape, normal(batch, other.shape.channels, *other.size), torch.tensor([0.2, 0.7, 1.0])
    values = other.lookup(torch.arange(batch * shape.length).reshape(batch, -1) * 7 % math.prod(shape.levels))

    def all_rows(keep, null=(False,) * batch, model=other):
        return rows(lambda *row: model.velocity(*row)[0], x, t, values, keep, null)

    mixed, slow = torch.tensor([1, 7, shape.length]), Other(shape, other.state, 1.0)
    full = [shape.length] * batch
    return {
        "x_t": x, "timesteps": t, "fsq_quants": values, "keep_mixed": mixed,
        **{f"velocity_keep{k}": all_rows([k] * batch) for k in (1, 3, shape.length)},
        "velocity_keep_mixed": all_rows(mixed),
        "velocity_no_keep_key": all_rows(full),
        "velocity_null": all_rows(full, (True,) * batch),
        "velocity_null_mixed": all_rows([3] * batch, (True, False, False)),
        "velocity_no_keep_key_max_timestep_1": all_rows(full, model=slow),
        "temb_sinusoid": rows(lambda t: other.time(t)[0], t),
        "temb": rows(lambda t: other.time(t)[1], t),
        "repa_patches_no_keep_key": rows(lambda *row: other.velocity(*row)[1], x, t, values, full),
    }  # fmt: skip


@torch.no_grad()
def case_sample(other, batch=2):
    shape, noise, keep = other.shape, normal(batch, other.shape.channels, *other.size), torch.tensor([2, 12])
    ids = torch.arange(batch * shape.length).reshape(batch, -1) * 11 % math.prod(shape.levels)
    values, padded = other.lookup(ids), torch.where(torch.arange(shape.length) < keep[:, None], ids, 0)
    other_noise = normal(batch, shape.channels, *other.size, seed=1)

    def whole(*settings, noise=noise, values=values):
        return rows(lambda *row: other.sample(*row, *settings), noise, values, keep)

    return {
        "fsq_quants": values, "init_noise": noise, "keep_k": keep,
        "sample1_cfg1": whole(1, 1.0),
        "sample3_cfg1": whole(3, 1.0),
        "sample3_cfg2.5": whole(3, 2.5),
        "sample3_apg4": whole(3, 4.0, True),
        "sample3_cfgfn": whole(3, lambda t: 1 + 4 * t),
        "detok_tokens_padded0": padded, "detok_noise": other_noise,
        "detok_latents": whole(4, 3.0, True, noise=other_noise, values=other.lookup(padded)),
    }  # fmt: skip


def case_train(other, batch=3, unrounded=()):
    """A training step, and the norms of all gradients; some rows' values stay unrounded."""
    shape, latents = other.shape, normal(batch, other.shape.channels, *other.size, seed=2)
    noise, null = normal(*latents.shape, seed=3), torch.tensor([False, False, True])
    keep = torch.tensor([4, 16, 1] if shape.draw == "pow2" else [3, 12, 7])
    u = torch.tensor([0.1, 0.4, 0.9])
    times = 1 - u - 0.5 * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
    fixed = [name for name in other.state if name.endswith("places.posembs")]
    leaves = {name: v.clone().requires_grad_(name not in fixed) for name, v in other.state.items()}
    live, t = Other(shape, leaves), times[:, None, None, None]
    z = rows(lambda x: live.encode(x)[0], latents)
    values, ids = live.quantize(z)
    soft = live.bounded(z) / (torch.tensor(shape.levels) // 2)
    values = torch.stack([soft[i] if i in unrounded else values[i] for i in range(batch)])
    noised = t * noise + (1 - t) * latents
    velocity = rows(lambda *row: live.velocity(*row)[0], noised, times, values, keep, null)
    loss = (velocity - (noise - latents)).square().mean((1, 2, 3))
    loss.mean().backward()
    gradients = {name: leaf.grad for name, leaf in leaves.items()}
    found = {
        "vae_latents": latents, "noise": noise, "sigmas": times, "timesteps": times, "keep_k": keep,
        "null_dropped": null, "enc_z": z, "fsq_quants": values, "tokens": ids, "x_t": noised, "velocity": velocity,
        "dec_registers_after_dropouts": rows(live.condition, values, keep, null),
        "loss_per_sample": loss, "loss": loss.mean()[None],
        **{f"grad.{name}": g for name, g in gradients.items() if g is not None and g.numel() <= 20_000},
    }  # fmt: skip
    norms = {name: None if g is None else float(g.norm()) for name, g in gradients.items()}
    return {name: value.detach() for name, value in found.items()}, norms


@torch.no_grad()
def case_mixed_sizes(other):
    """Other sizes than the model's own, up to the whole table's."""
    (rows, columns), p, found = other.shape.grid, other.shape.patch, {}
    sizes = {"a": (p * rows, p * columns), "b": (p, p * 2), "c": (p * 3, p)}
    keep, t = torch.tensor([4, 12, 1]), torch.tensor([0.3, 0.6, 0.9])
    for i, (which, size) in enumerate(sizes.items()):
        latents, x = normal(other.shape.channels, *size, seed=i), normal(other.shape.channels, *size, seed=9 + i)
        z = other.encode(latents)[0]
        values, ids = other.quantize(z)
        velocity = other.velocity(x, t[i], values, keep[i])[0]
        each = {"latents": latents, "enc_z": z, "tokens": ids, "x_t": x, "velocity": velocity}
        found |= {f"{name}_{which}": value[None] for name, value in each.items()}
    return {**found, "keep_k": keep, "timesteps": t}


def case_fsq(other):
    z, ids = 2 * normal(200, len(other.shape.levels)), torch.arange(math.prod(other.shape.levels))
    values, tokens = other.quantize(z)
    both = {"ids": ids, "ids_embedding": other.lookup(ids)}
    return {"z": z, "bounded": other.bounded(z), "quants": values, "tokens": tokens, **both}


def case_guidance(other):
    cond, uncond, cond2, uncond2 = (normal(1, other.shape.channels, *other.size, seed=i) for i in range(4))
    first, memory = project(cond[0], uncond[0], 5.0, None)
    return {
        "cond": cond, "uncond": uncond, "cond2": cond2, "uncond2": uncond2,
        "cfg5": uncond + 5 * (cond - uncond),
        "apg5_step1": first[None],
        "apg5_step2": project(cond2[0], uncond2[0], 5.0, memory)[0][None],
        "apg5_nomomentum": first[None],
    }  # fmt: skip


CASES = (case_encode, case_decode, case_sample, case_mixed_sizes, case_fsq, case_guidance)


def write(folder, shape, size, unrounded=()):
    """All cases beside a checkpoint, computed from its tensors."""
    other = Other(shape, load_file(folder / "model.safetensors"))
    other.size = size
    found, norms = case_train(other, unrounded=unrounded)
    for name, tensors in {"case_train": found, **{case.__name__: case(other) for case in CASES}}.items():
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    (folder / "case_train_grad_norms.json").write_text(json.dumps(norms))
    return folder


SHAPES = {
    "cropped": ({}, (6, 10)),
    "whole": ({"levels": (8, 5), "length": 16, "draw": "pow2", "head_dim": 16}, (10, 14)),
    "stretched": ({"positions": "interpolate", "grid": (3, 4), "patch": 1, "channels": 5}, (5, 3)),
}


@pytest.fixture(scope="module")
def written():
    """Case files by shape, as they were first computed: the second implementation is slow."""
    return {}


@pytest.fixture
def made(maker, written):
    """Makes checkpoints with all cases beside them."""

    def make(which, metadata=False):
        fields, size = SHAPES[which]
        shape = maker.Shape(**fields)
        state = maker.state_of(shape, table)
        folder = maker.folder(maker.config_of(shape), state, metadata=metadata)
        if which not in written:
            write(folder, shape, size)
            written[which] = {path.name: path.read_bytes() for path in folder.glob("case_*")}
        for name, content in written[which].items():
            (folder / name).write_bytes(content)
        return folder

    return make


@pytest.mark.parametrize("which", SHAPES)
def test_a_second_implementation_agrees(made, which):
    found = check(f"round trip, {which}", verify_folder(made(which)))
    assert len(cases(found)) == 7
    assert len(found) > 150


def test_a_config_of_literals_in_the_metadata_is_the_same_one(made):
    folder = made("cropped", metadata=True)
    assert not (folder / "config.json").exists()
    assert all(c.passed for c in verify_folder(folder))


def test_values_that_were_not_rounded_in_training(maker, made):
    folder = made("cropped")
    shape = maker.Shape()
    other = Other(shape, load_file(folder / "model.safetensors"))
    other.size = SHAPES["cropped"][1]
    keep_only(folder, "case_train")
    tensors, norms = case_train(other, unrounded=(1,))
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / "case_train.safetensors")
    (folder / "case_train_grad_norms.json").write_text(json.dumps(norms))
    assert all(c.passed for c in verify_folder(folder, assume={"regularizer.drop_quant_p": 0.5}))
    failed = [c.tensor for c in verify_folder(folder) if not c.passed and not c.tensor.startswith(("grad", "norm"))]
    assert {"fsq_quants", "velocity", "loss"} <= set(failed)
    with pytest.raises(ConfigError, match="corrupted tokens are drawn, and are not in it"):
        verify_folder(folder, assume={"regularizer.corrupt_tokens_p": 0.5})


def keep_only(folder, case):
    for path in folder.glob("case_*"):
        if not path.name.startswith(case):
            path.unlink()


def test_times_of_another_distribution(maker, made):
    """The case holds the times; whichever draw gives them, the rest is the same."""
    folder = made("cropped")
    keep_only(folder, "case_train")
    found = verify_folder(folder, assume={"flow_matching_noise_module.ln": True})
    assert all(c.passed for c in found)
    with pytest.raises(ConfigError, match="the config says it never does"):
        verify_folder(folder, assume={f"{DECODER}.null.dropout_prob": 0})
    with pytest.raises(ConfigError, match=r"keeps \[3, 12, 7\] tokens, which masker 'uniform-pow2' does not draw"):
        verify_folder(_longer(maker), assume={f"{DECODER}.shorten.size_sampling_mode": "uniform_pow2"})


def _longer(maker):
    """A case of `uniform` lengths, of 16 tokens."""
    shape = maker.Shape(length=16)
    folder = maker.folder(maker.config_of(shape), maker.state_of(shape, table))
    other = Other(shape, load_file(folder / "model.safetensors"))
    other.size = (6, 10)
    tensors, _ = case_train(other)
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / "case_train.safetensors")
    return folder


@pytest.mark.parametrize("name", [f"{ENCODER}.learned.registers", f"{DECODER}.trunk.blocks.2.attn.wv.weight"])
def test_a_perturbed_weight_fails(made, name):
    folder = made("cropped")
    state = load_file(folder / "model.safetensors")
    state[name][0] += 0.05 * normal(state[name].shape[1])
    save_file(state, folder / "model.safetensors")
    failed = {c.case for c in verify_folder(folder) if not c.passed}
    expected = (
        {"case_encode", "case_mixed_sizes", "case_train"} if "encoder" in name else {"case_decode", "case_sample"}
    )
    assert expected <= failed


def test_a_perturbed_table_is_refused(maker):
    shape = maker.Shape()
    state = maker.state_of(shape, lambda *sizes: table(*sizes) + 2e-6)
    with pytest.raises(ConfigError, match=r"encoder.module_dict.places.posembs: differs by 2.*; --drop encoder"):
        load(maker.folder(maker.config_of(shape), state))
    natural = maker.state_of(shape, lambda rows, columns, dim: table(columns, rows, dim).transpose(0, 1))
    with pytest.raises(ConfigError, match="differs by"):
        load(maker.folder(maker.config_of(shape), natural))
    dropped = load(
        maker.folder(maker.config_of(shape), state),
        drop=[f"{ENCODER}.places.posembs", f"{DECODER}.places.posembs"],
    )
    torch.testing.assert_close(dropped.encoder.patches.positions, table(5, 7, 64), atol=1e-6, rtol=0)
