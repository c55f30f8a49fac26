"""Cards, runs and suites as files."""

import hashlib
import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from flexframe_registry import (
    ConfigError,
    GeneratorConfig,
    TokenizerConfig,
    UnknownName,
    cards,
    create_manager,
    hookimpl,
    suite,
)
from flexframe_registry.cardfile import CardFile
from flexframe_registry.cards import Cards, find_cards, tokenizer_of
from flexframe_registry.cards import card as card_named
from flexframe_registry.files import merge, put, read_top, read_yaml, split_override

TOYS = ("toy/digits-tiny", "toy/prior")
WHOLE = """
summary: a model
model: {size: tiny, image_size: 16, length: 8, encoder: toy, quantizer: toy, masker: toy, decoder: toy}
run: {data: {type: digits, split: train}, optimizer: {lr: 1e-4}, steps: 10}
sampling: {steps: 3}
"""


class Folders:
    def __init__(self, *folders: Path) -> None:
        self.folders = folders

    @hookimpl
    def flexframe_cards(self):
        return self.folders


@pytest.fixture
def shelf(tmp_path):
    """Writes cards, and reads them back through a plugin that has them."""

    def make(folder="cards", **files):
        for name, text in files.items():
            path = tmp_path / folder / "toy" / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return find_cards(create_manager([Folders(tmp_path / folder)], points=False))

    return make


# --- files -------------------------------------------------------------------------------------------------------


def test_duplicate_keys_are_refused_and_the_file_is_named(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("lr: 1\nsteps: 2\nlr: 3\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml: .*duplicate key \"lr\"") as error:
        read_yaml(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "word"), [("a: [1", "twig.yaml"), ("- 1", "list, not a mapping"), ("", "NoneType")])
def test_a_file_that_is_no_mapping_is_told_in_one_line(tmp_path, text, word):
    path = tmp_path / "twig.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: 5", ".base: is a card's id, or a YAML file's path from where the command runs; not 5"),
        ("base: [a]", ".base: is a card's id"),
        ("model: {null: 3}", ".model: has the key None, and keys are words; put it in quotes"),
        ("model: {true: 3}", ".model: has the key True"),
        ("model: {? [1, 2] : 3}", ".model: has the key (1, 2)"),
        ("summary: 2026-01-01", ".summary: is a date, and no word, number, list or mapping; put it in quotes"),
        ("model: !!set {a}", ".model: is a set"),
        ("model: !!binary aGVsbG8=", ".model: is a bytes"),
        ("model: {length: !!int a}", "cannot read its YAML: invalid literal for int() with base 10: 'a'"),
        ("model: {length: 2026-13-45}", "cannot read its YAML: month must be in 1..12"),
        (f"model: {{length: {'[' * 100}{']' * 100}}}", "is nested deeper than 64 times"),
        (f"model: {{length: {'{a: ' * 900}{'}' * 900}}}", "cannot read its YAML: it is nested too deeply"),
        ("model: &x {a: *x}", "is nested deeper than 64 times, or has more than"),
        ("a: &a [b, b, b, b, b, b, b, b]\n" + "".join(
            f"{n}: &{n} [{', '.join([f'*{p}'] * 8)}]\n" for p, n in pairwise("abcdefghij")
        ), "has more than 100,000 values"),
        (f"run: {{steps: {'9' * 25}}}", ".run.steps: is a whole number of more than 63 bits"),
        (f"run: {{steps: {'9' * 5000}}}", "cannot read its YAML: Exceeds the limit"),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_what_no_card_can_hold_is_one_line_with_its_place(tmp_path, text, words):
    path = tmp_path / "odd.yaml"
    path.write_text(f"summary: a card\n{text}\n" if "summary" not in text else text)
    with pytest.raises(ConfigError) as told:
        card_named(str(path))
    assert str(told.value).startswith(str(path))
    assert words in str(told.value)


def test_a_number_that_is_a_key_is_its_word(tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text("base: toy/digits-tiny\nexpected: {loss: {100: 2.5}}\nmodel: {5: 3}\n")
    assert card_named(str(path)).file.expected == {"loss": {100: 2.5}}
    with pytest.raises(ConfigError, match=r"5: there is no such setting\. Known: size, image_size"):
        card_named(str(path)).described  # noqa: B018
    with pytest.raises(ConfigError, match=r"run\.data: has the key None"):
        split_override("run.data={~: 5}")


def test_yaml_is_1_2(tmp_path):
    path = tmp_path / "types.yaml"
    path.write_text("a: 1e-4\nb: no\nc: 1e3\nd: 012\n")
    assert read_yaml(path) == {"a": 1e-4, "b": "no", "c": 1000.0, "d": 12}


def test_yaml_builds_no_objects(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("run.optimizer.lr=1e-4", ("run.optimizer.lr", 1e-4)),
        ("a=", ("a", None)),
        ("a=b=c", ("a", "b=c")),
        ("a=[1, x]", ("a", [1, "x"])),
        ("a=true", ("a", True)),
    ],
)
def test_an_override_is_read_as_yaml(text, pair):
    assert split_override(text) == pair


# --- bases -------------------------------------------------------------------------------------------------------


def test_a_card_takes_from_its_base_what_it_does_not_say(shelf):
    found = shelf(whole=WHOLE, more="base: toy/whole\nsummary: other\nmodel: {length: 4}\nrun: {steps: 20}\n")
    card = found.get("toy/more")
    assert (card.file.summary, card.file.sampling) == ("other", {"steps": 3})
    assert card.model == found.get("toy/whole").model.model_copy(update={"length": 4})
    assert (card.run.steps, card.run.optimizer.lr) == (20, 1e-4)


def test_weights_and_numbers_are_not_inherited(shelf):
    base = WHOLE + f"weights: {{path: w, sha256: {'a' * 64}}}\nmetrics: {{psnr: 20}}\n"
    card = shelf(whole=base, more="base: toy/whole\n").get("toy/more")
    assert card.file.weights is None
    assert card.file.metrics == {}


def test_a_part_of_another_type_replaces_the_whole_part(shelf):
    base = WHOLE.replace("decoder: toy", "decoder: {type: toy, depth: 5}")
    other = "base: toy/whole\nmodel: {decoder: {type: toy-plain, patch: 8}}\n"
    same = "base: toy/whole\nmodel: {decoder: {patch: 8}}\n"
    found = shelf(whole=base, other=other, same=same)
    assert found.get("toy/other").model.decoder.depth == 2
    assert found.get("toy/other").model.decoder.patch == 8
    decoder = found.get("toy/same").model.decoder
    assert (decoder.type, decoder.depth, decoder.patch) == ("toy", 5, 8)


def test_settings_are_laid_on_a_part_given_as_a_bare_name():
    assert merge({"decoder": "flow"}, {"decoder": {"depth": 2}}) == {"decoder": {"type": "flow", "depth": 2}}
    assert merge({"data": "digits"}, {"data": {"split": "val"}}) == {"data": {"type": "digits", "split": "val"}}
    assert merge({"decoder": {"type": "flow", "depth": 2}}, {"decoder": "vit"}) == {"decoder": "vit"}


def test_merging_changes_neither_side():
    below, over = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(below, over) == {"a": {"b": 1, "c": 2}}
    assert (below, over) == ({"a": {"b": 1}}, {"a": {"c": 2}})


@pytest.mark.parametrize("bases", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}])
def test_bases_that_go_in_a_circle_are_refused(shelf, bases):
    found = shelf(**{name: f"base: toy/{base}\n{WHOLE}" for name, base in bases.items()})
    with pytest.raises(ConfigError, match="is built on it in turn"):
        found.get("toy/a")


def test_a_base_that_does_not_exist_is_named_with_the_nearest(shelf):
    with pytest.raises(UnknownName, match=r"no card named 'toy/hole'\. Did you mean 'toy/whole'?"):
        shelf(whole=WHOLE, more="base: toy/hole\n").get("toy/more")


# --- cards -------------------------------------------------------------------------------------------------------


def test_two_cards_of_one_id_are_refused_and_both_are_named(shelf, tmp_path):
    shelf("one", card=WHOLE)
    shelf("two", card=WHOLE)
    plugin = Folders(tmp_path / "one", tmp_path / "two")
    with pytest.raises(ValueError, match=r"'toy/card' is provided by both .*one.* and .*two"):
        find_cards(create_manager([plugin], points=False))


def test_a_card_that_cannot_be_read_spoils_no_other(shelf):
    found = shelf(whole=WHOLE, wrong="summary: [", odd=WHOLE + "sumary: twice\n")
    assert found.get("toy/whole").model.length == 8
    with pytest.raises(ConfigError, match=r"wrong\.yaml"):
        found.get("toy/wrong")
    with pytest.raises(ConfigError, match=r"odd\.yaml\.sumary: there is no such setting. Did you mean 'summary'"):
        found.get("toy/odd")


def test_an_unknown_card_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no card named 'toy/digits-tyny'\. Did you mean 'toy/digits-tiny'?"):
        cards().get("toy/digits-tyny")


def test_an_unknown_card_among_many_is_answered_with_its_family_or_the_families():
    many = Cards({f"a/{i:02}": Path() for i in range(12)} | {"b/one": Path(), "b/two": Path()})
    with pytest.raises(UnknownName, match=r"Known: b/one, b/two$"):
        many.get("b/three")
    with pytest.raises(UnknownName, match=r"Known: a/\.\.\., b/\.\.\.; `flexframe list` has all$"):
        many.get("nothing")


def test_a_card_without_a_run_does_not_train(shelf):
    text = "".join(line + "\n" for line in WHOLE.splitlines() if not line.startswith("run"))
    with pytest.raises(ConfigError, match="toy/card: has no `run`"):
        shelf(card=text).get("toy/card").train()


def test_weights_are_checked_against_the_cards_hash(shelf, tmp_path):
    right = hashlib.sha256(b"weights").hexdigest()
    found = shelf(
        whole=WHOLE,
        right=WHOLE + f"weights: {{path: w.bin, sha256: {right}}}\n",
        wrong=WHOLE + f"weights: {{path: w.bin, sha256: {'a' * 64}}}\n",
        gone=WHOLE + f"weights: {{path: other.bin, sha256: {right}}}\n",
    )
    weights = tmp_path / "cards" / "toy" / "w.bin"
    weights.write_bytes(b"weights")
    assert found.get("toy/right").weights_path() == weights
    with pytest.raises(ConfigError, match=f"w.bin hashes to {right[:12]}, the card says aaaaaaaaaaaa"):
        found.get("toy/wrong").weights_path()
    with pytest.raises(ConfigError, match=r"other\.bin are missing"):
        found.get("toy/gone").weights_path()
    with pytest.raises(ConfigError, match="ships no weights; train them with `flexframe train toy/whole`"):
        found.get("toy/whole").weights_path()


def test_a_card_that_only_says_how_to_use_its_base_has_the_weights_of_it(shelf, tmp_path):
    shipped = WHOLE + f"weights: {{path: w.bin, sha256: {hashlib.sha256(b'weights').hexdigest()}}}\n"
    few = "base: toy/shipped\nsummary: few steps\nsampling: {steps: 2}\n"
    found = shelf(
        shipped=shipped,
        bare=WHOLE,
        few=few,
        fewer="base: toy/few\nsampling: {steps: 1}\n",
        short=few + "model: {length: 4}\n",
        longer=few + "run: {steps: 20}\n",
        none="base: toy/bare\nsampling: {steps: 1}\n",
    )
    weights = tmp_path / "cards" / "toy" / "w.bin"
    weights.write_bytes(b"weights")
    for name in ("shipped", "few", "fewer"):
        assert found.get(f"toy/{name}").weighted().id == "toy/shipped"
        assert found.get(f"toy/{name}").weights_path() == weights
    assert found.get("toy/fewer").file.sampling == {"steps": 1}
    for name, what in (("short", "model"), ("longer", "run")):
        told = f"toy/{name}: is a card file without weights, and its `{what}` is another than that of toy/shipped"
        with pytest.raises(ConfigError, match=f"{told}.*train it with `flexframe train toy/{name}`"):
            found.get(f"toy/{name}").weights_path()
    with pytest.raises(ConfigError, match="toy/none: ships no weights; train them with `flexframe train toy/none`"):
        found.get("toy/none").weights_path()


def test_a_cards_file_names_a_tokenizer(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text("base: toy/digits-tiny\n")
    for name in (str(path), f"path:{path}"):
        assert tokenizer_of(name) == cards().get("toy/digits-tiny").model


def test_a_hash_must_look_like_one():
    with pytest.raises(ConfigError, match=r"weights\.sha256"):
        CardFile.read({"summary": "", "model": {}, "weights": {"path": "w", "sha256": "ABC"}})


@pytest.mark.parametrize("card", TOYS)
def test_a_card_is_a_model_and_trains_if_it_says_how(card):
    found = cards().get(card)
    model = found.described
    if isinstance(model, TokenizerConfig):
        assert model.spec.tokens.length == model.length
        assert model.decoder.sampling.read(found.file.sampling)
    if isinstance(model, GeneratorConfig):
        codes = cards().get(model.tokenizer).model.spec.tokens
        assert (model.length, model.codebook_size, model.codebooks) == (
            codes.length, codes.codebook_size, codes.codebooks,
        )  # fmt: skip
        assert model.prior.sampling.read(found.file.sampling)
    if found.file.run is not None:
        assert found.train().model == model


@pytest.mark.parametrize("card", cards().names())
def test_every_installed_card_says_its_kind_itself_or_by_its_base(card):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cards().get(card)
    assert found.described.kind == found.file.kind


PRIOR = "model: {length: 4, codebook_size: 8, prior: toy}\n"
CODEC = "model: {codec: identity}\n"


@pytest.mark.parametrize(("kind", "model"), [("generator", PRIOR), ("codec", CODEC)])
def test_a_card_of_before_kind_was_written_works_and_is_told_to_write_it(shelf, kind, model):
    told = f"toy/old.yaml describes a {kind} and does not say so; write `kind: {kind}` in it$"
    with pytest.warns(FutureWarning, match=told):
        old = shelf(old=f"summary: old\n{model}").get("toy/old")
    new = shelf(new=f"summary: new\nkind: {kind}\n{model}").get("toy/new")
    assert old.described == new.described
    assert (old.described.kind, old.file.kind) == (kind, kind)


def test_a_card_takes_its_kind_from_its_base(shelf):
    text = "base: toy/new\nsummary: other\nmodel: {length: 3}\n"
    assert shelf(new=f"summary: new\nkind: generator\n{PRIOR}", other=text).get("toy/other").described.length == 3


def test_what_a_card_is_not_is_told_by_its_kind(shelf):
    found = shelf(one=f"summary: one\nkind: tokenizer\n{PRIOR}", two="summary: two\nkind: prior\nmodel: {}\n")
    with pytest.raises(
        ConfigError, match=r"toy/one: is said to be a tokenizer, and has a prior; write `kind: generator`"
    ):
        found.get("toy/one").described  # noqa: B018
    with pytest.raises(ConfigError, match=r"two\.yaml\.kind: .*'tokenizer', 'generator' or 'codec' \(found 'prior'\)"):
        found.get("toy/two")


# --- suites ------------------------------------------------------------------------------------------------------


def test_suites_are_found_by_name_and_by_path(tmp_path):
    assert suite("digits").data.split == "val"
    path = tmp_path / "mine.yaml"
    path.write_text("data: digits\nmetrics: [psnr]\ncount: 3\n")
    assert suite(str(path)).count == 3


def test_an_unknown_suite_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no suite named 'digit'.* Did you mean 'digits'?"):
        suite("digit")


def test_a_setting_reaches_into_a_list_by_number():
    raw = {"metrics": ["psnr", {"type": "ssim"}], "data": "digits"}
    assert put(raw, ["metrics", "0", "cap"], 50)["metrics"] == [{"type": "psnr", "cap": 50}, {"type": "ssim"}]
    assert put(raw, ["metrics", "1"], "bits")["metrics"] == ["psnr", "bits"]
    assert raw["metrics"] == ["psnr", {"type": "ssim"}]
    for number in ("2", "-1", "first"):
        with pytest.raises(ConfigError, match=rf"metrics\.{number}: there are 2, numbered from 0"):
            put(raw, ["metrics", number, "cap"], 50)


def test_a_suite_that_lacks_something_says_how_to_say_it():
    with pytest.raises(ConfigError, match=r"^kodak-256: data\.path: is required and is not given; say it as data\."):
        suite("kodak-256")
    found = suite("kodak-256", ["data.path=photos", "count=3", "metrics.2.net=alex"])
    assert (found.count, found.metrics[2].net) == (3, "alex")


def test_a_listings_line_is_that_of_the_whole_card(tmp_path):
    for name in cards().names():
        card = cards().get(name)
        assert cards().line(name) == (card.file.summary, card.file.weights is not None), name


@pytest.mark.parametrize(
    "text",
    ["two words, [of] {it} & 'more'", "True", "null", "words # and a comment", "a: b", "12", "'quoted'", "two\n  lines",
     "true to it", "ends in a space ", "", "tab\there", "über", '"a: b, # c"', '"null"', '"a \\"b\\""', '"a" b', '"'],
)  # fmt: skip
def test_the_top_of_a_file_is_read_as_yaml_reads_it(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(f"# above\nsummary: {text}\nbase: a/b\n")
    found = []
    for read in (read_yaml, lambda path: read_top(path, ("summary", "base"))):
        try:
            found.append(read(path))
        except ConfigError as error:
            found.append([place for place, _ in error.problems])
    assert found[0] == found[1]


def test_a_line_needs_no_more_than_the_first_words(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "a.yaml").write_text("summary: >-\n  two\n  lines\nmodel: {encoder: [\n")
    (folder / "b.yaml").write_text("base: odd/a\nsampling: {}\n")
    (folder / "c.yaml").write_text("summary: [\n")
    (folder / "d.yaml").write_text("base: odd/e\nkind: tokenizer\n")
    (folder / "e.yaml").write_text("base: odd/d\nkind: tokenizer\n")
    odd = Cards({f"odd/{name}": folder / f"{name}.yaml" for name in "abcde"})
    assert odd.line("odd/a") == odd.line("odd/b") == ("two lines", False)
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot read its YAML: while parsing a flow node"):
        odd.line("odd/c")
    with pytest.raises(ConfigError, match="is built on it in turn"):
        odd.line("odd/d")
