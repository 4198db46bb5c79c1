"""Published weights that are downloaded, from a server on this machine into a network of a few parameters."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from support.file_server import Site, serve
from torch import nn

import topgraft as tg
from topgraft import api
from topgraft.cli import main
from topgraft.data.samples import ImageSpec
from topgraft.errors import DownloadError, UsageError, WeightsError
from topgraft.models.backbones.init import he_normal
from topgraft.models.registry import BACKBONES
from topgraft.models.spec import Backbone, Build, Chain
from topgraft.models.weights.convention import Convention
from topgraft.models.weights.load import load_network
from topgraft.models.weights.obtain import locate, obtain
from topgraft.models.weights.open import open_weights
from topgraft.models.weights.published import WEIGHTS, Weights
from topgraft.system import download, http_range

FILE = "tiny-owt.pth"
SPEC = ImageSpec(32, 40, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
CODED = ImageSpec(32, 32, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def build(asked: Build) -> Chain:
    return {
        "stem": nn.Sequential(nn.Conv2d(asked.channels, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "head": nn.Linear(4, asked.classes),
    }


TINY = Backbone(
    name="tiny",
    family="tiny",
    year=2026,
    paper="none",
    groups=("stem", "head"),
    feature_width=4,
    build=build,
    initialize=he_normal,
    conventions=(Convention("theirs", {"features.0": "stem.0", "classifier": "head"}, CODED),),
    untrained=SPEC,
    weights=("tiny_imagenet1k_v2", "tiny_imagenet1k_v1"),
)


def state(classes: int = 1000) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(classes)
    shapes = {
        "features.0.weight": (4, 3, 3, 3),
        "features.0.bias": (4,),
        "classifier.weight": (classes, 4),
        "classifier.bias": (classes,),
    }
    return {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}


def written(tensors: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


CONTENT = written(state())
SHA = hashlib.sha256(CONTENT).hexdigest()


def published(name: str, url: str, sha256: str) -> Weights:
    return Weights(
        name=name,
        backbone="tiny",
        convention="theirs",
        file=FILE,
        sha256=sha256,
        size=len(CONTENT),
        spec=SPEC,
        classes=1000,
        top1=0.75,
        top5=0.9,
        license="not stated",
        source="nowhere",
        url=url,
    )


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """The server, with the tiny network in the tables; the cache is empty."""
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.delenv("TOPGRAFT_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
    with serve(CONTENT) as served:
        monkeypatch.setitem(BACKBONES, "tiny", TINY)
        for name in TINY.weights:
            monkeypatch.setitem(WEIGHTS, name, published(name, served.url, SHA[:8]))
        yield served


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {f".{FILE}.lock"}


def test_weights_are_downloaded_once_into_the_cache(site: Site, tmp_path: Path) -> None:
    assert locate("tiny_imagenet1k_v2") is None
    for _ in range(2):
        network = load_network("tiny")
        assert (network.weights, network.spec, network.license) == ("tiny_imagenet1k_v2", SPEC, "not stated")
        assert network.sha256 == SHA, "the whole hash, not the published beginning of it"
        assert torch.equal(network.chain["stem"].state_dict()["0.weight"], state()["features.0.weight"])
        assert torch.equal(network.chain["head"].state_dict()["bias"], state()["classifier.bias"])
    assert len(site.asked) == 1
    assert locate("tiny_imagenet1k_v2") == tmp_path / "cache" / "weights" / FILE
    assert files(tmp_path / "cache" / "weights") == {FILE}


def test_the_folder_can_be_set(site: Site, tmp_path: Path) -> None:
    network = load_network("tiny", "tiny_imagenet1k_v1", classes=3, folder=tmp_path / "other")
    assert network.weights == "tiny_imagenet1k_v1"
    assert locate("tiny_imagenet1k_v1", tmp_path / "other") == tmp_path / "other" / "weights" / FILE
    assert locate("tiny_imagenet1k_v1") is None


def test_a_cut_connection_is_taken_up_where_it_ended(site: Site) -> None:
    site.cuts = [len(CONTENT) // 3, len(CONTENT) // 3]
    path, sha256 = obtain(WEIGHTS["tiny_imagenet1k_v2"])
    assert path.read_bytes() == CONTENT
    assert sha256 == SHA
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked, _ in site.asked[1:] if asked]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(CONTENT)


def test_a_corrupted_file_is_refused_and_removed(site: Site, tmp_path: Path) -> None:
    site.data = CONTENT[:1000] + bytes([CONTENT[1000] ^ 1]) + CONTENT[1001:]
    with pytest.raises(DownloadError) as raised:
        load_network("tiny")
    assert f"{site.url} does not have the expected checksum sha256:{SHA[:8]}" in str(raised.value)
    assert files(tmp_path / "cache" / "weights") == set()
    assert locate("tiny_imagenet1k_v2") is None
    site.data = CONTENT
    assert load_network("tiny").sha256 == SHA


def test_a_file_damaged_in_the_cache_is_brought_again(site: Site) -> None:
    path, _ = obtain(WEIGHTS["tiny_imagenet1k_v2"])
    path.write_bytes(CONTENT[:-7])
    assert load_network("tiny").sha256 == SHA
    assert path.read_bytes() == CONTENT
    assert len(site.asked) == 2


def test_offline_says_what_to_do(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPGRAFT_OFFLINE", "1")
    target = tmp_path / "cache" / "weights" / FILE
    with pytest.raises(DownloadError) as raised:
        load_network("tiny")
    assert str(raised.value) == (
        f"TOPGRAFT_OFFLINE is set. Without a connection, get {site.url} on another machine and put it at {target}. "
        "Or give a file of weights with --weights."
    )
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT)
    assert load_network("tiny").weights == "tiny_imagenet1k_v2"
    assert load_network("tiny", "random").weights == "random"
    assert site.asked == []


def test_without_a_network_it_says_what_to_do(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        url = f"http://127.0.0.1:{server.server_port}/{FILE}"  # closed below: nothing listens there
    monkeypatch.setitem(WEIGHTS, "tiny_imagenet1k_v2", published("tiny_imagenet1k_v2", url, SHA[:8]))
    target = tmp_path / "chosen" / "weights" / FILE
    assert main.main(
        [
            "fit",
            "--strategy",
            "head",
            "digits",
            "--backbone",
            "tiny",
            "--limit",
            "50",
            "--cache-dir",
            str(tmp_path / "chosen"),
        ]
    )
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"topgraft: {url} cannot be downloaded: there is no connection to the server. "
        f"Without a connection, get {url} on another machine and put it at {target}. "
        "Or give a file of weights with --weights."
    )


def test_a_full_disk_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fills_up(*_: object, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(http_range, "_copy", fills_up)
    with pytest.raises(DownloadError, match=r"^the disk is full: .* Free some space and start again"):
        load_network("tiny")


def test_a_file_can_stand_where_a_name_goes(site: Site, tmp_path: Path) -> None:
    tensors = state(classes=7)
    path = tmp_path / "own.pth"
    path.write_bytes(written(tensors))
    for given in (path, str(path)):
        found = open_weights(TINY, given)
        assert (found.name, found.license, found.spec, found.build.classes) == ("own.pth", "not stated", CODED, 7)
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert torch.equal(found.state["head.weight"], tensors["classifier.weight"])
    assert site.asked == []


def test_a_copy_of_a_published_file_is_known_by_its_content(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "renamed.bin"
    path.write_bytes(CONTENT)
    found = open_weights(TINY, path)
    assert (found.name, found.spec, found.sha256) == ("tiny_imagenet1k_v2", SPEC, SHA)


def test_shapes_that_do_not_fit_are_named(site: Site, tmp_path: Path) -> None:
    tensors = state() | {"features.0.weight": torch.zeros(5, 3, 3, 3), "extra.bias": torch.zeros(2)}
    del tensors["features.0.bias"]
    path = tmp_path / "own.pth"
    path.write_bytes(written(tensors))
    with pytest.raises(WeightsError) as raised:
        load_network("tiny", path)
    assert str(raised.value) == (
        "the tensors do not fit tiny (names as in theirs): missing: stem.0.bias (4,); unexpected: extra.bias (2,); "
        "of another shape: features.0.weight (5, 3, 3, 3) for stem.0.weight (4, 3, 3, 3)"
    )


def test_what_is_neither_a_name_nor_a_file_is_answered(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'tiny_imagenet_v1', and no file of that name; did you mean tiny_imagenet1k"):
        load_network("tiny", "tiny_imagenet_v1")
    with pytest.raises(UsageError, match=r"no weights named '.*no\.pth', and no file of that name; there are"):
        load_network("tiny", tmp_path / "no.pth")
    with pytest.raises(UsageError, match="is a folder, not a file of weights"):
        load_network("tiny", tmp_path)
    with pytest.raises(UsageError, match="are for tiny, not for efficientnet_lite0; "):
        load_network("efficientnet_lite0", "tiny_imagenet1k_v1")


@pytest.mark.parametrize("random", [False, True])
def test_every_verb_takes_weights(site: Site, tmp_path: Path, random: bool) -> None:
    path = tmp_path / "own.pth"
    path.write_bytes(CONTENT)
    chosen = "random" if random else path
    model = tg.fit("digits", backbone="tiny", weights=chosen, limit=100, engine="torch", strategy="head")
    assert model.config["settings"]["weights"] == str(chosen)
    recorded = model.config["backbone"]
    expected = ("random", "", "none") if random else ("tiny_imagenet1k_v2", SHA, "not stated")
    assert (recorded["weights"], recorded["weights_sha256"], recorded["licence"]) == expected
    tg.inspect("digits", backbone="tiny", weights=chosen, limit=30)
    again = tg.extract_features("digits", backbone="tiny", weights=chosen, limit=30, engine="torch")
    assert again.features.shape[1] == 4
    assert site.asked == []


def test_the_list_says_what_is_here(site: Site) -> None:
    def row() -> dict[str, object]:
        (found,) = (row for row in api.list_backbones() if row["name"] == "tiny")
        return found

    assert (row()["here"], row()["weights"], row()["license"]) == (False, "tiny_imagenet1k_v2", "not stated")
    obtain(WEIGHTS["tiny_imagenet1k_v2"])
    assert row()["here"] is True
