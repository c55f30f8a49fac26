"""The page of `flexframe app`, by gradio. It stays on this machine: no address elsewhere is asked for anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from flexframe.extras import needed
from flexframe.models.generator import Generator
from flexframe.use import window
from flexframe.use.window import Entrant
from flexframe_registry import ConfigError

BUTTONS = ["download", "fullscreen"]
"""Of pictures; gradio's third would send them to the hub."""
GIVEN = ["upload", "clipboard"]
FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
"""The system's own: gradio's theme would fetch others."""


def page(entrants: Sequence[Entrant], priors: Sequence[tuple[str, Generator, Entrant]]) -> Any:
    """The page, not yet served.

    Raises:
        ImportError: gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    gr = needed("gradio", "app", "flexframe app")
    with gr.Blocks(title="flexframe", analytics_enabled=False) as blocks:
        gr.Markdown("# flexframe\nA picture, and what each model makes of it from its first tokens.")
        with gr.Tab("Look"):
            _look(gr, entrants)
        with gr.Tab("Edit a token"):
            _edit(gr, entrants)
        if priors:
            with gr.Tab("Generate"):
                _generate(gr, priors)
    return blocks


def _look(gr: Any, entrants: Sequence[Entrant]) -> None:
    most = max(each.model.config.length for each in entrants)
    with gr.Row():
        with gr.Column(scale=1):
            picture = gr.Image(type="pil", label="picture", elem_id="picture", height=280, sources=GIVEN)
            count = gr.Slider(1, most, value=most, step=1, label="tokens", elem_id="tokens")
            differ = gr.Checkbox(label=f"differences, {window.AMPLIFIED} times", elem_id="differences")
            file = gr.DownloadButton("tokens as JSON", elem_id="download")
        with gr.Column(scale=2), gr.Row():
            made = [
                gr.Image(
                    label=each.name, elem_id=f"made-{i}", interactive=False, format="png", height=300, buttons=BUTTONS
                )
                for i, each in enumerate(entrants)
            ]

    def show(given: Image.Image | None, asked: float, apart: bool) -> list[Any]:
        if given is None:
            return [None] * len(entrants)
        found = []
        for each in entrants:
            rebuilt, length = each.at(given, int(asked))
            if apart:
                rebuilt = window.difference(window.shown(each.image(given)), rebuilt)
            found.append(gr.Image(value=rebuilt, label=f"{each.name}: {length} token{'s' * (length > 1)}"))
        return found

    def keep(given: Image.Image | None) -> str | None:
        if given is None:
            return None
        path = Path(tempfile.mkdtemp(prefix="flexframe-")) / "tokens.json"
        path.write_text(window.record(entrants, given), encoding="utf-8")
        return str(path)

    for changed in (picture.change, count.change, differ.change):
        changed(show, [picture, count, differ], made, show_progress="minimal", trigger_mode="always_last")
    picture.change(keep, picture, file)


def _edit(gr: Any, entrants: Sequence[Entrant]) -> None:
    names = [each.name for each in entrants]
    with gr.Row():
        with gr.Column(scale=1):
            picture = gr.Image(type="pil", label="picture", elem_id="edited-picture", height=220, sources=GIVEN)
            other = gr.Image(
                type="pil", label="another, to take a token of", elem_id="other-picture", height=220, sources=GIVEN
            )
            chosen = gr.Dropdown(names, value=names[0], label="model")
            slot = gr.Number(0, precision=0, label="slot, from 0", elem_id="slot")
            code = gr.Textbox("", label="code; empty takes the other picture's", elem_id="code")
            button = gr.Button("put it there", elem_id="put")
        with gr.Column(scale=2):
            with gr.Row():
                before, after, apart = (
                    gr.Image(
                        label=label, interactive=False, format="png", elem_id=f"edit-{i}", height=300, buttons=BUTTONS
                    )
                    for i, label in enumerate(("before", "after", f"difference, {window.AMPLIFIED} times"))
                )
            told = gr.Markdown()

    def put(given: Image.Image | None, second: Image.Image | None, name: str, at: float, text: str) -> list[Any]:
        entrant = entrants[names.index(name)]
        if given is None:
            raise gr.Error("give a picture first")
        tokens = entrant.encoded(given)
        try:
            if text.strip():
                new = [float(each) if "." in each else int(each) for each in text.replace(",", " ").split()]
            elif second is not None:
                codes = entrant.encoded(second).codes[0]
                new = codes[min(int(at), len(codes) - 1)].tolist()
            else:
                raise gr.Error("give a code, or another picture to take the token of")
            changed = window.edited(entrant, tokens, int(at), new)
        except (ConfigError, ValueError) as error:
            raise gr.Error(str(error)) from None
        was = tokens.codes[0, int(at)].tolist()
        first, then = entrant.decoded(tokens), entrant.decoded(changed)
        return [first, then, window.difference(first, then), f"slot {int(at)}: {was} is now {new}"]

    button.click(put, [picture, other, chosen, slot, code], [before, after, apart, told])


def _generate(gr: Any, priors: Sequence[tuple[str, Generator, Entrant]]) -> None:
    names = [name for name, _, _ in priors]
    with gr.Row():
        with gr.Column(scale=1):
            chosen = gr.Dropdown(names, value=names[0], label="prior")
            label = gr.Textbox("", label="class, by number or name; empty for none", elem_id="class")
            length = gr.Number(priors[0][1].config.length, precision=0, label="tokens")
            seed = gr.Number(0, precision=0, label="seed")
            button = gr.Button("draw", elem_id="draw")
        gallery = gr.Gallery(label="token by token", columns=4, elem_id="drawn", format="png", buttons=BUTTONS)

    def draw(name: str, wanted: str, asked: float, number: float) -> list[tuple[Image.Image, str]]:
        from flexframe.use.generate import read_classes

        _, prior, entrant = priors[names.index(name)]
        try:
            classes = read_classes(wanted.strip() or None, prior.config)
            found = window.drawn(prior, entrant, next(iter(classes), None), int(asked), int(number))
        except (ConfigError, ValueError) as error:
            raise gr.Error(str(error)) from None
        return [(picture, f"{count} token{'s' * (count > 1)}") for picture, count in found]

    button.click(draw, [chosen, label, length, seed], gallery)


def serve(blocks: Any, host: str, port: int, block: bool = True) -> str:
    """Serve a page on this machine, and give its address; until it is stopped, if `block`."""
    gr = needed("gradio", "app", "flexframe app")
    theme = gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"])
    launched = blocks.launch(
        server_name=host, server_port=port, share=False, prevent_thread_lock=not block, quiet=True, theme=theme,
        inbrowser=False, footer_links=[],
    )  # fmt: skip
    return str(launched[1])
