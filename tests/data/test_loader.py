from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.small import SPEC, colored

from topgraft.data.augment import AUGMENTATIONS, View, load_view
from topgraft.data.hashing import digest_bytes
from topgraft.data.loader import batches
from topgraft.data.preprocess import load_pixels
from topgraft.data.samples import Sample

VIEW = View(AUGMENTATIONS["strong"], 0, 3)


def files(folder: Path, count: int) -> list[Sample]:
    made = []
    for sample in colored(count):
        path = folder / f"{sample.name.replace('/', '-')}.png"
        Image.fromarray(sample.array).resize((40, 30)).save(path)
        made.append(Sample(path.name, sample.label, path=path, digest=digest_bytes(path.read_bytes())))
    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_the_plain_crop_or_a_view(workers: int, tmp_path: Path) -> None:
    samples = files(tmp_path, 7)
    for view in (None, VIEW):
        made = list(batches(samples, SPEC, batch_size=3, workers=workers, view=view))
        assert [batch.indices.tolist() for batch in made] == [[0, 1, 2], [3, 4, 5], [6]]
        expected = [
            load_pixels(sample.path, SPEC) if view is None else load_view(sample.path, SPEC, view, sample.digest)
            for sample in samples
        ]
        assert np.array_equal(torch.cat([batch.pixels for batch in made]).numpy(), np.stack(expected))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_view_of_a_damaged_file_is_left_out_with_its_reason(workers: int, tmp_path: Path) -> None:
    samples = files(tmp_path, 5)
    bad = samples[2].path
    assert bad is not None
    bad.write_bytes(bad.read_bytes()[:60])
    plain, augmented = (list(batches(samples, SPEC, batch_size=2, workers=workers, view=view)) for view in (None, VIEW))
    assert [batch.indices.tolist() for batch in augmented] == [[0, 1], [3], [4]]
    assert [batch.failed for batch in augmented] == [batch.failed for batch in plain]
    assert augmented[1].failed[0][0] == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_view_needs_digests(workers: int) -> None:
    sample = Sample("a", 0, array=np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="digest"):
        list(batches([sample], SPEC, batch_size=1, workers=workers, view=VIEW))
