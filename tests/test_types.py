"""The values of every option are held against the signatures of what they configure."""

from copy import deepcopy
from math import nan

import pytest
from omegaconf import OmegaConf

from oboro.base.configuration import TARGET, Configuration, at, key_of, same, shown
from oboro.base.errors import UserError
from oboro.cli.settings import Training, check_settings, plain
from oboro.restore import Stored
from test_conf import CLASSLESS, OPTIONS, SEVERAL, at_once, choosing, composed

CHOSEN = at_once(option for option in OPTIONS if option[0] not in ("debug", "hparams_search"))
NOTHING = {"wrong": {"wrong": []}}  # of no type that a value may have
WRONG = {bool: ["maybe", 7, nan], int: ["abc", True, nan, 0.5], float: ["abc", True, nan, [1]], str: [7, True, ["a"]]}


def scalars(node, place=()):
    """The place of every value that is written, not interpolated, in a node and what is in it."""
    if isinstance(node, dict | list) and node:
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from scalars(node[key], (*place, key))
    elif place and place[-1] != TARGET and not (isinstance(node, str) and "${" in node):
        yield place


def overrides(options) -> list[str]:
    if options[0][0] in SEVERAL:
        return [f"{options[0][0]}=[{','.join(name for _, name in options)}]"]
    return [override for option in options for override in choosing(*option)]


@pytest.mark.parametrize("options", CHOSEN.values(), ids=CHOSEN)
def test_every_option_is_right_as_it_is(options):
    """And nothing is changed but the type of whole numbers."""
    config = composed(*overrides(options))
    before = OmegaConf.to_container(config, resolve=True)
    check_settings(config, Training)
    assert OmegaConf.to_container(config, resolve=True) == before


@pytest.mark.parametrize("options", CHOSEN.values(), ids=CHOSEN)
def test_no_value_of_an_option_escapes(options):
    """Each is replaced by values of another type, and the message names its key and the value."""
    raw = plain(composed(*overrides(options)), resolve=False)
    groups = {group.split("/")[0] for group, _ in options if group not in CLASSLESS} or {"task", "data", "trainer"}
    for place in [place for group in groups for place in scalars(raw[group], (group,))]:
        for wrong in [*WRONG.get(type(at(raw, place)), []), NOTHING]:
            changed = deepcopy(raw)
            at(changed, place[:-1])[place[-1]] = wrong
            argument = next(place[:i] for i in range(len(place), 0, -1) if isinstance(at(raw, place[:i][:-1]), dict))
            with pytest.raises(UserError) as error:
                check = Configuration(changed, None, (Stored,))
                for node in [place[:i] for i in range(1, len(place)) if TARGET in (at(changed, place[:i]) or ())][:1]:
                    check.value(object, node)
            assert str(error.value).startswith(f"{key_of(argument)}={shown(at(changed, argument))} must be ")
            assert "\n" not in str(error.value)
    assert same(raw, plain(composed(*overrides(options)), resolve=False))
