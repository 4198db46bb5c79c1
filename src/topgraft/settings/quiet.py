"""The option ``quiet`` that every verb takes; it is not a setting: it changes what is shown, and is not saved."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from topgraft.errors import UsageError
from topgraft.system import progress

from .fields import require_known

P = ParamSpec("P")
R = TypeVar("R")


def with_quiet(verb: Callable[P, R]) -> Callable[P, R]:
    """Obey the argument ``quiet`` of a verb, and refuse unknown options by their closest name.

    The wrapped function has the verb's own signature, for `inspect.signature` and for type checkers.
    """
    names = list(inspect.signature(verb).parameters)

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        require_known(kwargs, names)
        quiet = kwargs.get("quiet", False)
        if type(quiet) is not bool:
            raise UsageError(f"quiet must be True or False, not {quiet!r}")
        with progress.quiet(quiet):
            return verb(*args, **kwargs)

    return run
