"""Settings in, a replayed run's choices among them; a run's config out."""

from __future__ import annotations

import numpy as np
import pytest

from topgraft import fitting
from topgraft.errors import DataError, UsageError
from topgraft.features import FeatureRows
from topgraft.records import Sample


def rows(*kept: int) -> FeatureRows:
    return FeatureRows(np.array(kept), np.arange(8 * len(kept), dtype=np.float32).reshape(-1, 8), (), 0, 0.0)


def test_rows_are_parted_into_train_and_validation() -> None:
    samples = [Sample(str(n), n % 2) for n in range(6)]  # four of train, two of validation
    train, val = fitting.labelled(rows(0, 1, 3, 5), samples, 4, ("ant", "bee"))
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 1, 1], [1])
    assert np.array_equal(np.concatenate([train.rows, val.rows]), rows(0, 1, 3, 5).rows)
    with pytest.raises(DataError, match="no training image of the class ant can be read"):
        fitting.labelled(rows(1, 3, 5), samples, 4, ("ant", "bee"))
    with pytest.raises(DataError, match="no validation image can be read"):
        fitting.labelled(rows(0, 1), samples, 4, ("ant", "bee"))


def test_laps_are_the_seconds_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 4.0])
    monkeypatch.setattr(fitting.time, "perf_counter", lambda: next(times))
    seconds: dict[str, float] = {}
    lap = fitting.laps(seconds)
    lap("open")
    lap("head")
    assert seconds == {"open": 0.5, "head": 2.5}


def test_refit_goes_with_a_solved_head_only() -> None:
    import topgraft as tg

    with pytest.raises(UsageError, match="use --strategy head"):
        tg.fit("digits", strategy="full", refit=True, weights="random", input_size=32)
