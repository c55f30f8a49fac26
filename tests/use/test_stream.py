"""Pictures while they come: those of a whole drawing, until more tokens change nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.data.tokenfile import TokenFile
from flexframe.use import stream as module
from flexframe.use.generate import generate
from flexframe.use.stream import stream
from flexframe_registry import ConfigError

from .test_generate import files, generator, make_tokenizer, tokenizer  # noqa: F401  (fixtures)


def pixels(folder, number):
    return np.asarray(Image.open(folder / f"{number:05d}.png"))


def test_they_end_as_pictures_of_a_whole_drawing(generator, tokenizer, tmp_path):  # noqa: F811
    done = stream(generator, tokenizer, tmp_path / "s", classes=[2, 0], count=5, batch_size=3, seed=4)
    generate(generator, tokenizer, tmp_path / "g", classes=[2, 0], count=5, seed=4)
    for number in range(5):
        assert np.array_equal(pixels(tmp_path / "s", number), pixels(tmp_path / "g" / "6", number))
    one, other = (TokenFile(tmp_path / each / "tokens.safetensors").table() for each in "sg")
    assert np.array_equal(one.codes, other.codes)
    assert np.array_equal(one.labels, other.labels)
    assert done.tokens == {"cow": 6.0, "cat": 6.0}
    frames = [tmp_path / "s" / f"frame-{tokens}.png" for tokens in (1, 2, 4, 6)]
    assert all(each.is_file() for each in frames)
    assert (tmp_path / "s" / "live.png").read_bytes() == frames[-1].read_bytes()
    with Image.open(tmp_path / "s" / "stream.webp") as animation:
        assert animation.n_frames == 4


def test_a_picture_is_done_where_more_tokens_change_little(generator, tokenizer, tmp_path, monkeypatch):  # noqa: F811
    asked, drawn = [], module._drawn

    def seen(job, numbers, length):
        asked.append((length, tuple(numbers)))
        return drawn(job, numbers, length)

    monkeypatch.setattr(module, "_drawn", seen)
    turn = iter([0.01, 0.5, 0.5, 0.5, 0.01, 0.5])  # of pictures 0, 1, 2 at 2 tokens; of 1, 2 at 4; of 1 at 6
    monkeypatch.setattr(module, "_change", lambda before, after: next(turn))
    done = stream(generator, tokenizer, tmp_path / "s", count=3, until=0.1)
    assert asked == [(1, (0, 1, 2)), (2, (0, 1, 2)), (4, (1, 2)), (6, (1,))]
    file = TokenFile(tmp_path / "s" / "tokens.safetensors")
    assert file.rows(0, 3).lengths.tolist() == [1, 6, 2]
    assert done.tokens == {"": float(file.rows(0, 3).lengths.float().mean())}


def test_all_done_early_ends_early(generator, tokenizer, tmp_path):  # noqa: F811
    stream(generator, tokenizer, tmp_path / "s", count=2, until=1.0)
    assert sorted(each.name for each in (tmp_path / "s").glob("frame-*")) == ["frame-1.png", "frame-2.png"]
    assert TokenFile(tmp_path / "s" / "tokens.safetensors").rows(0, 2).lengths.tolist() == [1, 1]


def test_change_is_a_root_mean_square():
    before = torch.zeros(3, 2, 2, dtype=torch.uint8)
    after = before.clone()
    after[0, 0, 0] = 255
    assert module._change(before, after) == pytest.approx(12**-0.5)


def test_what_cannot_be_streamed_is_told(generator, tokenizer, tmp_path, monkeypatch):  # noqa: F811
    fixed = make_tokenizer(masker={"type": "full"})
    with pytest.raises(ConfigError, match=r"--stream: .* first tokens are no picture"):
        stream(generator, fixed, tmp_path / "a", force=True)
    with pytest.raises(ConfigError, match=r"--length: 7 is not within 1..6"):
        stream(generator, tokenizer, tmp_path / "a", length=7)
    drawn = module._drawn

    def otherwise(job, numbers, length):
        codes, images = drawn(job, numbers, length)
        return (codes + length) % 16, images

    monkeypatch.setattr(module, "_drawn", otherwise)
    with pytest.raises(ConfigError, match="does not begin a longer sequence as a shorter one"):
        stream(generator, tokenizer, tmp_path / "b", count=1)


@pytest.mark.parametrize("way", [(), ("--stream",)])
def test_what_was_asked_and_not_drawn_is_told(command, files, tmp_path, way):  # noqa: F811
    given = ("generate", "-p", files[1], "--class", "all", *way)
    some = command(*given, "--count", 2, "-o", tmp_path / "some")
    assert "the last 1 of 3 classes were not drawn, for --count is 2; --count 3 draws one of each" in some.err
    assert "were not drawn" not in command(*given, "--count", 3, "-o", tmp_path / "all").err


def test_pictures_that_are_not_finite_are_refused(generator, tokenizer, tmp_path):  # noqa: F811
    with torch.no_grad():
        broken = make_tokenizer()
        for parameter in broken.decoder.parameters():
            parameter.fill_(torch.nan)
    for draw in (generate, stream):
        with pytest.raises(ConfigError, match="pictures: hold values that are not finite, so that they would be black"):
            draw(generator, broken, tmp_path / draw.__name__, count=1, force=True)
        assert not list((tmp_path / draw.__name__).rglob("*.png"))
