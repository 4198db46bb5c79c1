"""The signature that a verb has, and its option ``quiet``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import pytest

from topgraft import errors
from topgraft.settings import fields
from topgraft.settings.signatures import takes
from topgraft.system import progress


@dataclass(frozen=True, kw_only=True)
class Choices:
    size: int = fields.choice(3, "how large it is")


@takes(Choices)
def verb(what: str, **choices: Any) -> str:
    """Do something."""
    progress.note(what)
    return f"{what} {fields.make(Choices, choices).size}"


def test_every_choice_stands_in_the_signature_and_in_the_docstring() -> None:
    assert str(inspect.signature(verb)) == "(what: 'str', *, size=3, quiet=False) -> 'str'"
    assert verb.__name__ == "verb"
    assert inspect.getdoc(verb) == (
        "Do something.\n\nChoices:\n    size: how large it is.\n    quiet: show no progress and no notes."
    )


def test_quiet_prints_nothing_and_is_not_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("loud", size=4) == "loud 4"
    assert capsys.readouterr().err == "loud\n"
    assert verb("silent", size=4, quiet=True) == "silent 4"
    assert capsys.readouterr() == ("", "")
    verb("loud again")
    assert capsys.readouterr().err == "loud again\n"


def test_quiet_is_true_or_false() -> None:
    with pytest.raises(errors.UsageError, match="quiet must be True or False, not 'no'"):
        verb("what", quiet="no")
