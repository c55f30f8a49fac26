"""Plugins: found, isolated, reported."""

from typing import Literal

import pluggy
import pytest

from flexframe_registry import Component, QuantizerConfig, create_manager, hookimpl
from flexframe_registry.cards import find_cards
from flexframe_registry.catalogue import Catalogue

RAISES = "raise RuntimeError('no such\\n  device')"
BAD_HOOK = """
from flexframe_registry import hookimpl
@hookimpl
def flexframe_components():
    raise KeyError("lost")
"""
BAD_CARDS = BAD_HOOK.replace("components", "cards")
NAMELESS = """
from flexframe_registry import Component, QuantizerConfig, hookimpl
class NamelessConfig(QuantizerConfig):
    pass
@hookimpl
def flexframe_components():
    return [Component(NamelessConfig, "nowhere:Nothing")]
"""

OTHER_KIND = """
from flexframe_registry import Component, hookimpl
from flexframe_registry.config import ComponentConfig
from typing import Literal
class SthConfig(ComponentConfig):
    kind = "thing"
    contract = "nowhere:Thing"
    type: Literal["sth"] = "sth"
@hookimpl
def flexframe_components():
    return [Component(SthConfig, "nowhere:Sth")]
"""

TWIN = """
from flexframe_registry import Component, QuantizerConfig, hookimpl
from typing import Literal
class TwinConfig(QuantizerConfig):
    type: Literal["twin"] = "twin"
@hookimpl
def flexframe_components():
    return [Component(TwinConfig, "nowhere:Nothing")]
"""


class GoodConfig(QuantizerConfig):
    type: Literal["good"] = "good"


class Good:
    @hookimpl
    def flexframe_components(self):
        return [Component(GoodConfig, "a:A")]


class Misspelt:
    @hookimpl
    def flexframe_component(self):
        return []


def test_a_misspelt_hook_is_refused_and_the_plugin_with_it():
    with pytest.raises(pluggy.PluginValidationError, match="flexframe_component"):
        create_manager([Misspelt()], points=False)
    manager = create_manager(points=False)
    with pytest.raises(pluggy.PluginValidationError):
        manager.add(Misspelt(), "misspelt", "alpha 1.0")
    assert not manager.has_plugin("misspelt")


def test_a_hook_with_an_argument_that_does_not_exist_is_refused():
    class Extra:
        @hookimpl
        def flexframe_step_end(self, run, stepp):
            pass

    with pytest.raises(pluggy.PluginValidationError, match="stepp"):
        create_manager([Extra()], points=False)


def test_components_are_stamped_with_their_provider():
    manager = create_manager(points=False)
    manager.add(Good(), "good", "alpha 1.0")
    assert [c.provider for c in manager.components()] == ["alpha 1.0"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (RAISES, "RuntimeError: no such device"),
        (BAD_HOOK, "KeyError: 'lost'"),
        (NAMELESS, "TypeError: NamelessConfig needs `type:"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
    ids=["import-raises", "hook-raises", "nameless-component", "import-missing"],
)
def test_a_broken_plugin_is_kept_aside_and_the_rest_works(install, source, error):
    install("badplugin", source)
    manager = create_manager([Good()])
    found = Catalogue(manager.components(), manager.broken)
    assert found.get("quantizer", "good")
    assert found.get("masker", "toy")
    (broken,) = found.broken
    assert (broken.plugin, broken.provider) == ("badplugin", "badplugin 1.0")
    assert broken.error.startswith(error)
    assert "\n" not in broken.error
    with pytest.raises(LookupError, match="plugin 'badplugin' could not be imported"):
        found.get("quantizer", "what-badplugin-has")


def test_a_plugin_whose_cards_raise_takes_no_other_card_with_it(install):
    install("badplugin", BAD_CARDS)
    found = find_cards(create_manager())
    assert "toy/digits-tiny" in found.files
    assert [broken.plugin for broken in found.broken] == ["badplugin"]


@pytest.mark.parametrize("source", [RAISES, BAD_HOOK, BAD_CARDS], ids=["import", "components", "cards"])
def test_list_reports_a_broken_plugin_and_succeeds(install, forked, source):
    install("badplugin", source)
    done = forked("from flexframe.cli import main; main()", "list")
    assert done.returncode == 0, done.stderr
    assert "plugin 'badplugin' (badplugin 1.0) cannot be used: " in done.stderr
    assert "toy-plain" in done.stdout
    assert "toy/digits-tiny" in done.stdout


def test_the_environment_names_the_only_plugins_to_load(monkeypatch, install):
    install("twin", TWIN)
    monkeypatch.setenv("FLEXFRAME_PLUGINS", "twin, standard")
    found = Catalogue(create_manager().components())
    assert {c.kind for c in found} >= {"masker", "codec", "source", "quantizer"}
    assert found.names("encoder") == found.names("decoder") == []
    monkeypatch.setenv("FLEXFRAME_PLUGINS", "")
    assert create_manager().components() == []


def test_a_plugin_that_is_asked_for_and_not_there_is_told(monkeypatch):
    monkeypatch.setenv("FLEXFRAME_PLUGINS", "standrad")
    (broken,) = create_manager().broken
    assert (broken.plugin, broken.provider) == ("standrad", "FLEXFRAME_PLUGINS")
    assert broken.error.startswith("no plugin of this name is installed. Did you mean 'standard'? Known: ")


def test_what_is_not_loaded_is_told_with_the_reason(forked):
    code = "from flexframe.cli import main; main()"
    done = forked(code, "show", "encoder/toy", FLEXFRAME_PLUGINS="standard")
    assert "no encoder named 'toy'. Known: none is installed (FLEXFRAME_PLUGINS loads standard alone)" in done.stderr


def test_a_component_of_a_kind_that_there_is_not_is_refused_with_its_plugin(install):
    install("badplugin", OTHER_KIND)
    manager = create_manager()
    assert "thing" not in {component.kind for component in manager.components()}
    (broken,) = manager.broken
    assert broken.error.startswith(
        "ValueError: 'sth' is of a kind that there is not, 'thing'. Its config's base is one of: CodecConfig"
    )


def test_importing_and_listing_import_no_torch(python):
    code = """
import sys, flexframe
found = list(flexframe.catalogue())
models = [flexframe.cards().get(name).described for name in flexframe.cards().names()]
assert found and models
assert "torch" not in sys.modules and "numpy" not in sys.modules, sorted(sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "args", ["--help", "list", "list decoder", "show decoder/toy", "show toy/digits-tiny --config"]
)
def test_commands_that_only_tell_import_no_torch(python, args):
    code = """
import sys
from flexframe.cli import app
app(sys.argv[1:], standalone_mode=False)
assert "torch" not in sys.modules
"""
    done = python(code, *args.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout
