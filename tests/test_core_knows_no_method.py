"""The core knows no method: no file of `flexframe/` or `registry/` names one, outside of examples.

An example is the name of a card or of a published checkpoint (`family/variant`), in backquotes or in a command line
that begins with `flexframe`. Whatever else must name a method is listed here, with its reason.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("flexframe", "registry")
BINARY = {".pyc", ".png", ".safetensors", ".npz", ".woff2"}

ANYWHERE = ("flex-?tok", "titok", "proxy[-_ ]?code", "mask-?git", "vq-?gan", "magvit", "taef", "simvq", "llamagen",
            "semanticist", "elastic-?tok", "one-?d-?piece", "1d-tokenizer", "dinov", "res-?tok")  # fmt: skip
"""Names that mean nothing else, so that they are seen within identifiers too."""
WORDS = ("rar", "repa", "fsq", "lfq", "bsq", "gpt", "alit", "mar")
"""Names that are parts of other words."""
CAMEL = "|".join(
    rf"(?-i:{word.upper()}(?=[A-Z][a-z])|{word.capitalize()}(?=[A-Z])|(?<=[a-z]){word.upper()}(?![A-Za-z]))"
    for word in WORDS
)
"""The same within identifiers: `GPTPrior`, `GptPrior`, `useGPT`."""
METHOD = re.compile(rf"{'|'.join(ANYWHERE)}|(?<![a-z])(?:{'|'.join(WORDS)})(?![a-z])|{CAMEL}", re.IGNORECASE)
EXAMPLE = re.compile(
    r"`[^`\n]*\b[\w-]+/[\w.-]+[^`\n]*`"  # `flexframe train family/variant run.steps=20`, `owner/checkpoint`
    r"|^(?:EXAMPLES = )?\W*(?:\d+\.\s+)?flexframe [a-z-]+ .*$",  # a line of a README, a YAML comment, a help
    re.MULTILINE,
)

ALLOWED = {
    "flexframe/bench/causes.py": (
        r"\(\S+ #\d+(?:, #\d+)*\)|\(semanticist's README .*?\)",
        "cites where such numbers were seen",
    ),
}


def named(path: str, text: str) -> list[str]:
    """Methods that a file names outside of examples and of what is allowed."""
    if path in ALLOWED:
        text = re.sub(ALLOWED[path][0], "", text, flags=re.MULTILINE)
    return METHOD.findall(EXAMPLE.sub("", text))


FILES = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*")) if p.is_file() and p.suffix not in BINARY]


@pytest.mark.slow
def test_no_file_of_the_core_names_a_method():
    assert len(FILES) > 100
    told = {}
    for file in FILES:
        path = str(file.relative_to(ROOT))
        words = named(path, file.read_text(encoding="utf-8")) + METHOD.findall(path)
        if words:
            told[path] = words
    assert not told, "the core names methods; ask parts for what they need, or make an example of it"


@pytest.mark.parametrize("path", ALLOWED)
def test_what_is_allowed_is_still_there(path):
    pattern, reason = ALLOWED[path]
    text = (ROOT / path).read_text(encoding="utf-8")
    allowed = "\n".join(match[0] for match in re.finditer(pattern, text, re.MULTILINE))
    assert METHOD.search(allowed), f"no longer needed: {reason}"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('features={"proxy_codes": codes}', "proxy_code"),
        ("class VQGANEncoder(nn.Module):", "VQGAN"),
        ("if decoder.type == 'titok':", "titok"),
        ("from flexframe_flextok import Flow", "flextok"),
        ("# as FlexTok's second stage does", "FlexTok"),
        ('DEFAULT = "flextok/digits-tiny"', "flextok"),
        ("an RAR prior", "RAR"),
        ("class GPTPrior(Prior):", "GPT"),
        ("class FsqLevels:", "Fsq"),
        ("from flexframe_objectives import useREPA", "REPA"),
    ],
)
def test_a_name_is_seen(text, word):
    assert named("flexframe/some.py", text) == [word]


@pytest.mark.parametrize(
    "text",
    [
        '"""Train a tokenizer: `flexframe train flextok/digits-tiny run.steps=20`."""',
        "where: a card's id (`flextok/digits-tiny`), or a published checkpoint (`EPFL-VILAB/flextok_d12_d12_in1k`)",
        "#   flexframe bench-samples scenes-64-samples gpt/scenes-64-flextok -o out",
        "a library is separated from margins",
        "MARGIN, Margins, MARKS",
    ],
)
def test_an_example_or_another_word_is_none(text):
    assert named("flexframe/some.py", text) == []
