"""Results as plain dictionaries, and as a pandas DataFrame where pandas is installed."""

from __future__ import annotations

import importlib
from typing import Any

from topgraft.errors import UsageError


class Tabular:
    """A result with one dictionary for each image or record."""

    __slots__ = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary for each row, with values of JSON types."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """The rows of `to_dicts` as a ``pandas.DataFrame``.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise UsageError("pandas is not installed; pip install pandas, or use to_dicts()") from None
        return pandas.DataFrame(self.to_dicts())
