import errno
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.file_server import Site, serve

from topgraft.errors import DownloadError
from topgraft.system import download, http_range, progress
from topgraft.system.download import fetch

DATA = bytes(range(256)) * 5000  # 1.28 MB: several pieces
SHA = "sha256:" + hashlib.sha256(DATA).hexdigest()
PREFIX = SHA[: len("sha256:") + 8]
MD5 = "md5:" + hashlib.md5(DATA).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(DATA) as served:
        yield served


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.delenv("TOPGRAFT_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def get(site: Site, folder: Path, known_hash: str = SHA) -> Path:
    return fetch(site.url, known_hash=known_hash, folder=folder, file_name="data.bin")


def left(folder: Path) -> set[str]:
    """What is in the folder, the lock apart."""
    return {path.name for path in folder.iterdir()} - {".data.bin.lock"}


@pytest.mark.parametrize("known_hash", [SHA, MD5, PREFIX, PREFIX.upper().replace("SHA256", "sha256")])
def test_a_file_is_downloaded_once(site: Site, tmp_path: Path, known_hash: str):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        path = get(site, folder, known_hash)
        assert path == folder / "data.bin"
        assert path.read_bytes() == DATA
    assert site.asked == [(None, None)]
    assert left(folder) == {"data.bin"}


def test_nothing_is_printed(site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    get(site, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_progress_counts_bytes(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bars = []

    class Recorded(progress.Bar):
        def close(self) -> None:
            bars.append((self.description, self.total, self.unit, self.done))

    monkeypatch.setattr(progress, "Bar", Recorded)
    site.cuts = [300_000]
    get(site, tmp_path)
    assert [bar[:3] for bar in bars] == [("downloading data.bin", len(DATA), "B")] * 2
    assert bars[0][3] < bars[1][3] == len(DATA)


def test_a_cut_connection_is_taken_up_where_it_ended(site: Site, tmp_path: Path):
    site.cuts = [400_000, 100_000]
    assert get(site, tmp_path).read_bytes() == DATA
    assert site.asked[0] == (None, None)
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked, _ in site.asked[1:]]
    assert 0 < starts[0] < starts[1] <= 500_000
    assert [version for _, version in site.asked[1:]] == ['"v1"', '"v1"']
    assert left(tmp_path) == {"data.bin"}


def test_a_later_process_takes_it_up_too(site: Site, tmp_path: Path):
    site.cuts = [600_000]
    site.statuses = [200, 404]
    with pytest.raises(DownloadError, match="404"):
        get(site, tmp_path)
    assert left(tmp_path) == {".data.bin.part", ".data.bin.part.json"}
    have = (tmp_path / ".data.bin.part").stat().st_size
    assert 0 < have <= 600_000
    assert get(site, tmp_path).read_bytes() == DATA
    assert site.asked[-1] == (f"bytes={have}-", '"v1"')


def test_many_cuts_are_no_failure_while_each_attempt_brings_something(site: Site, tmp_path: Path):
    site.cuts = [300_000, 300_000, 300_000, 300_000]
    assert get(site, tmp_path).read_bytes() == DATA


def test_a_server_that_never_brings_anything_is_given_up(site: Site, tmp_path: Path):
    site.cuts = [0] * 20
    with pytest.raises(DownloadError, match=r"the connection ended early\. Without a connection"):
        get(site, tmp_path)
    assert len(site.asked) == 3


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(site: Site, tmp_path: Path):
    site.cuts = [600_000]
    site.statuses = [200, 404]
    site.data, old = b"old" * 400_000, site.data
    with pytest.raises(DownloadError):
        get(site, tmp_path)
    site.data, site.etag = old, '"v2"'
    assert get(site, tmp_path).read_bytes() == DATA
    assert site.asked[-1][1] == '"v1"'


def test_a_server_without_ranges_is_asked_for_all_of_it_again(site: Site, tmp_path: Path):
    site.ranges = False
    site.cuts = [600_000]
    assert get(site, tmp_path).read_bytes() == DATA
    assert len(site.asked) == 2


def test_without_a_version_nothing_is_resumed(site: Site, tmp_path: Path):
    site.etag = None
    site.cuts = [600_000]
    assert get(site, tmp_path).read_bytes() == DATA
    assert site.asked == [(None, None)] * 2


def test_a_weak_tag_is_no_version_but_a_date_is(site: Site, tmp_path: Path):
    site.etag, site.modified = 'W/"v1"', "Sat, 13 Feb 2010 08:00:00 GMT"
    site.cuts = [600_000]
    assert get(site, tmp_path).read_bytes() == DATA
    assert site.asked[1][1] == site.modified


def test_a_server_that_sends_another_part_is_asked_for_all(site: Site, tmp_path: Path):
    site.cuts, site.range_shift = [600_000], 7
    assert get(site, tmp_path).read_bytes() == DATA
    assert [asked is None for asked, _ in site.asked] == [True, False, True]


def test_a_part_longer_than_the_file_is_thrown_away(site: Site, tmp_path: Path):
    (tmp_path / ".data.bin.part").write_bytes(DATA + b"more")
    (tmp_path / ".data.bin.part.json").write_text('{"version": "\\"v1\\""}')
    assert get(site, tmp_path).read_bytes() == DATA
    assert [asked for asked, _ in site.asked] == [f"bytes={len(DATA) + 4}-", None]


@pytest.mark.parametrize("facts", ["", "[]", "{}", '{"version": 3}', '{"version": ""}'])
def test_a_part_of_unknown_version_is_thrown_away(site: Site, tmp_path: Path, facts: str):
    (tmp_path / ".data.bin.part").write_bytes(b"junk")
    (tmp_path / ".data.bin.part.json").write_text(facts)
    assert get(site, tmp_path).read_bytes() == DATA
    assert site.asked == [(None, None)]


def test_a_length_that_is_not_told_is_no_error(site: Site, tmp_path: Path):
    site.length = False
    assert get(site, tmp_path).read_bytes() == DATA


def test_archives_are_not_unpacked_on_the_way(site: Site, tmp_path: Path):
    site.encoding = "gzip"
    assert get(site, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("known_hash", [SHA, PREFIX])
@pytest.mark.parametrize("cuts", [[], [600_000]])
def test_a_wrong_checksum_leaves_nothing(site: Site, tmp_path: Path, cuts: list[int], known_hash: str):
    site.data, site.cuts = DATA[:-1] + b"?", cuts
    with pytest.raises(DownloadError, match=f"does not have the expected checksum {known_hash}, so it was removed"):
        get(site, tmp_path, known_hash)
    assert left(tmp_path) == set()
    site.data = DATA
    assert get(site, tmp_path, known_hash).read_bytes() == DATA


@pytest.mark.parametrize("known_hash", ["sha256:", "sha256:0123456", "0123456789"])
def test_a_hash_that_would_fit_anything_is_refused(site: Site, tmp_path: Path, known_hash: str):
    with pytest.raises(ValueError, match="too short"):
        get(site, tmp_path, known_hash)
    assert site.asked == []


@pytest.mark.parametrize("known_hash", [SHA, PREFIX])
def test_a_damaged_file_that_is_here_is_replaced(site: Site, tmp_path: Path, known_hash: str):
    (tmp_path / "data.bin").write_bytes(b"damaged")
    assert get(site, tmp_path, known_hash).read_bytes() == DATA
    assert left(tmp_path) == {"data.bin"}


def test_the_file_that_is_here_survives_a_failed_download(site: Site, tmp_path: Path):
    (tmp_path / "data.bin").write_bytes(b"damaged")
    site.statuses = [404]
    with pytest.raises(DownloadError):
        get(site, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"damaged"


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_not_tried_again(site: Site, tmp_path: Path, status: int):
    site.statuses = [status] * 9
    with pytest.raises(DownloadError, match=f"the server answers {status}"):
        get(site, tmp_path)
    assert len(site.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_is_busy_is_tried_again(site: Site, tmp_path: Path, status: int):
    site.statuses = [status, status]
    assert get(site, tmp_path).read_bytes() == DATA
    site.statuses = [status] * 9
    (tmp_path / "data.bin").unlink()
    with pytest.raises(DownloadError, match=f"the server answers {status}"):
        get(site, tmp_path)


def test_without_a_network_the_message_says_where_to_put_the_file(site: Site, tmp_path: Path):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        url = f"http://127.0.0.1:{server.server_port}/data.bin"  # closed below: nothing listens there
    with pytest.raises(DownloadError) as raised:
        fetch(url, known_hash=SHA, folder=tmp_path, file_name="data.bin")
    assert "there is no connection to the server" in str(raised.value)
    assert f"get {url} on another machine and put it at {tmp_path / 'data.bin'}" in str(raised.value)


@pytest.mark.parametrize("offline", ["1", "true", "yes"])
def test_offline_asks_nobody(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str):
    monkeypatch.setenv("TOPGRAFT_OFFLINE", offline)
    with pytest.raises(DownloadError) as raised:
        get(site, tmp_path)
    assert str(raised.value).startswith("TOPGRAFT_OFFLINE is set. ")
    assert f"put it at {tmp_path / 'data.bin'}" in str(raised.value)
    assert site.asked == []
    (tmp_path / "data.bin").write_bytes(DATA)
    assert get(site, tmp_path) == tmp_path / "data.bin"
    assert site.asked == []


def test_a_damaged_file_is_said_when_offline(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data.bin").write_bytes(b"damaged")
    monkeypatch.setenv("TOPGRAFT_OFFLINE", "1")
    with pytest.raises(DownloadError) as raised:
        get(site, tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'data.bin'} does not have the checksum {SHA}, and TOPGRAFT_OFF")
    assert (tmp_path / "data.bin").read_bytes() == b"damaged"


@pytest.mark.parametrize("offline", ["", "0", "false"])
def test_offline_can_be_said_not_to_be(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str):
    monkeypatch.setenv("TOPGRAFT_OFFLINE", offline)
    assert get(site, tmp_path).read_bytes() == DATA


def test_a_full_disk_is_said_and_what_is_there_is_kept(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy = http_range._copy

    def fills_up(raw, file, start, total, target):
        file.write(raw.read(1000, decode_content=False))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(http_range, "_copy", fills_up)
    with pytest.raises(DownloadError, match=r"the disk is full: http.* does not fit into .*Free some space"):
        get(site, tmp_path)
    assert left(tmp_path) == {".data.bin.part", ".data.bin.part.json"}
    monkeypatch.setattr(http_range, "_copy", copy)
    assert get(site, tmp_path).read_bytes() == DATA
    assert site.asked[1] == ("bytes=1000-", '"v1"')


def test_a_folder_that_cannot_be_written_is_said(site: Site, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match="cannot be written"):
        get(site, tmp_path / "file")


def test_several_at_once_download_once(site: Site, tmp_path: Path):
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(get(site, tmp_path).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [DATA] * 4
    assert len(site.asked) == 1
