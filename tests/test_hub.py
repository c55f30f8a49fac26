"""Models from the hub: what is fetched, at which commit, and that nothing is fetched unasked."""

import json

import pytest
from safetensors.torch import save

from flexframe.models import modelfile
from flexframe.store import hub as hub_module
from flexframe.store import places
from flexframe.store.load import load
from flexframe_registry import ConfigError

from .hub import serve

pytestmark = pytest.mark.slow

SHOW = "import flexframe, sys; m = flexframe.load(sys.argv[1]); print(m.id, m.config.length)"


@pytest.fixture
def hub(tmp_path):
    with serve(tmp_path / "server") as server:
        yield server


@pytest.fixture
def model(tiny, tmp_path):
    """The bytes of a model file."""
    modelfile.save(tiny.state_dict(), tiny.config, tmp_path / "made.safetensors")
    return (tmp_path / "made.safetensors").read_bytes()


FRESH = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
    del sys.modules[name]  # it reads the environment when it is imported
"""


@pytest.fixture
def run(tmp_path, forked):
    """Runs code in a process whose hub is the given one."""

    def call(url, code, *args):
        own = {"HF_HOME": str(tmp_path / "hf"), "FLEXFRAME_HOME": str(tmp_path / "ff")}
        return forked(FRESH + code, *args, HF_ENDPOINT=url, HF_HUB_ETAG_TIMEOUT="2", **own)

    return call


def test_a_model_is_fetched_once_and_its_commit_is_kept(hub, model, run, tmp_path):
    first = hub.publish("who/model", {"model.safetensors": model, "README.md": b"no", "pytorch_model.bin": b"no"})
    done = run(hub.url, SHOW, "hf:who/model")
    assert done.stdout.split() == ["hf:who/model", "8"], done.stderr
    assert json.loads((tmp_path / "ff" / "revisions.json").read_text()) == {"who/model": first}
    fetched = {path.rsplit("/", 1)[-1] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"model.safetensors"}  # safetensors are there, so the pickle stays away

    hub.publish("who/model", {"model.safetensors": b"another"})
    again = run(hub.url, SHOW, "hf:who/model")
    assert again.stdout.split() == ["hf:who/model", "8"], again.stderr
    newest = run(hub.url, SHOW, "hf:who/model@main")
    assert "is not a whole safetensors file" in newest.stderr

    offline = run("http://127.0.0.1:9", SHOW, "hf:who/model")
    assert offline.stdout.split() == ["hf:who/model", "8"], offline.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:who/nobody", "there is no such repository on the hub"),
        ("hf:who/model@0000000", "has no such revision"),
        ("hf:not a name", "is no repository's name"),
    ],
)
def test_what_the_hub_has_not_is_told(hub, model, run, name, message):
    hub.publish("who/model", {"model.safetensors": model})
    done = run(hub.url, SHOW, name)
    assert message in done.stderr.strip().splitlines()[-1]


def test_no_network_is_told(run):
    done = run("http://127.0.0.1:9", SHOW, "hf:who/model")
    last = done.stderr.strip().splitlines()[-1]
    assert "hf:who/model@main: cannot be fetched and is not cached" in last
    assert "path:FOLDER" in last


def test_a_bare_name_says_that_it_goes_to_the_hub(hub, model, run):
    hub.publish("who/model", {"model.safetensors": model})
    done = run(hub.url, SHOW, "who/model")
    assert done.stdout.split() == ["hf:who/model", "8"]
    assert "is no card and no path: it is looked for on huggingface.co" in done.stderr


ABOUT = "import sys; from flexframe.store import hub; hub.fetch('who/model'); print(hub.said('who/model', sys.argv[1]))"


@pytest.mark.parametrize(
    ("front", "told"),
    [
        ("license: mit\nbase_model: who/else\n", {"licence": "mit", "base_model": "who/else"}),
        ("license: other\nlicense_name: mine\nbase_model: [a/b]\n", {"licence": "mine", "base_model": "a/b"}),
        ("license: other\n", {"licence": "other"}),
        ("license: [\n", {}),
        (None, {}),
    ],
)
def test_a_repositorys_page_says_its_licence_and_what_it_is_made_from(hub, model, run, front, told):
    page = {} if front is None else {"README.md": f"---\n{front}---\n# A model".encode()}
    commit = hub.publish("who/model", {"model.safetensors": model, **page})
    done = run(hub.url, ABOUT, commit)
    assert done.stdout.strip() == str(told), done.stderr


# --- what a name means; none of this may fetch -------------------------------------------------------------------


def test_a_card_comes_before_a_path_and_a_path_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy" / "digits-tiny").mkdir(parents=True)
    (tmp_path / "who" / "model").mkdir(parents=True)
    assert places.locate("toy/digits-tiny").card is not None
    assert places.locate("./toy/digits-tiny").path is not None
    assert places.locate("path:toy/digits-tiny").path is not None
    assert places.locate("who/model").path is not None
    assert places.locate("hf:who/model").repo == "who/model"
    assert places.locate("hf:who/model@abc").revision == "abc"
    assert places.locate("nobody/model").repo == "nobody/model"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy/digits-tyny", "Did you mean 'toy/digits-tiny'"),
        ("card:who/model", "no card named 'who/model'"),
        ("path:who/model", "is no file or folder"),
        ("nothing", "no card named 'nothing'"),
        ("/no/such/file", "is no file or folder, and no card"),
        ("runs/mien", "runs/mien: is no file or folder, and no card. Did you mean 'runs/mine'"),
        ("runs/other", "runs/other: is no file or folder, and no card. `flexframe list`"),
        ("tyo/digits-tiny", "Did you mean 'toy/digits-tiny'. A repository of the hub: hf:tyo/digits-tiny"),
    ],
)
def test_a_name_of_nothing_is_told_without_asking_the_hub(name, message, tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flexframe.store.hub.fetch", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises((ConfigError, LookupError), match=message):
        load(name)


def test_a_record_of_revisions_that_is_broken_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path))
    (tmp_path / "revisions.json").write_text("{")
    with pytest.raises(ConfigError, match="delete it, and revisions are recorded anew"):
        hub_module.recorded("who/model")


def test_a_file_that_no_importer_knows_is_told(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({}))
    with pytest.raises(ConfigError, match="is of no format known here"):
        load(tmp_path / "a.safetensors")
