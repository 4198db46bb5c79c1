"""Give a verb the signature of its settings, and the option ``quiet``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

from topgraft.errors import UsageError
from topgraft.system import progress

from .fields import default

V = TypeVar("V", bound=Callable[..., Any])


def takes(kind: type[Any]) -> Callable[[V], V]:
    """Give a verb the signature of its settings, so that ``help`` and notebooks show every choice.

    The verb also takes ``quiet``, which is not a setting: it changes what is shown, and is not saved.
    """

    def sign(verb: V) -> V:
        @wraps(verb)
        def run(*arguments: Any, quiet: bool = False, **choices: Any) -> Any:
            if type(quiet) is not bool:
                raise UsageError(f"quiet must be True or False, not {quiet!r}")
            with progress.quiet(quiet):
                return verb(*arguments, **choices)

        signature = inspect.signature(verb)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        choices = [(entry.name, default(entry), entry.metadata["help"]) for entry in fields(kind)]
        choices.append(("quiet", False, progress.QUIET_HELP))
        options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value, _ in choices]
        run.__signature__ = signature.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
        lines = "".join(f"        {name}: {text}.\n" for name, _, text in choices)
        run.__doc__ = f"{(verb.__doc__ or '').rstrip()}\n\n    Choices:\n{lines}"
        return run  # type: ignore[return-value]

    return sign
