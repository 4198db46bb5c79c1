"""The option ``quiet`` of a verb."""

from __future__ import annotations

import inspect

import pytest

from topgraft import errors
from topgraft.settings.quiet import with_quiet
from topgraft.system import progress


@with_quiet
def verb(text: str, *, size: int = 3, quiet: bool = False) -> str:
    """Do something."""
    progress.note(text)
    return f"{text} {size}"


def test_the_signature_and_the_docstring_are_the_verbs_own() -> None:
    assert str(inspect.signature(verb)) == "(text: 'str', *, size: 'int' = 3, quiet: 'bool' = False) -> 'str'"
    assert (verb.__name__, verb.__doc__) == ("verb", "Do something.")


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("loud", size=4) == "loud 4"
    assert capsys.readouterr().err == "loud\n"
    assert verb("silent", size=4, quiet=True) == "silent 4"
    assert capsys.readouterr() == ("", "")
    verb("loud again")
    assert capsys.readouterr().err == "loud again\n"


def test_quiet_is_true_or_false() -> None:
    with pytest.raises(errors.UsageError, match="quiet must be True or False, not 'no'"):
        verb("text", quiet="no")  # type: ignore[arg-type]


def test_an_unknown_option_is_refused_with_the_closest_name() -> None:
    with pytest.raises(errors.UsageError, match="no setting named sise; did you mean size"):
        verb("text", sise=4)  # type: ignore[call-arg]
