"""Raw files: found, downloaded, or refused in one sentence when not what is pinned."""

import dataclasses
import hashlib
import http.server
import threading
import zipfile

import numpy as np
import pytest

from leaveout.studies.datasets.source import File, Origin, cached, find, member, where

CONTENT = b"a table\n" * 50_000
PIN = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder of data and a cache, both empty."""
    monkeypatch.setenv("LEAVEOUT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LEAVEOUT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "set").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def publisher(tmp_path):
    """The address of a web server, and the folder it serves."""
    folder = tmp_path / "published"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()


def origin(*files, derived=None):
    return Origin("set", files, "https://example.org/page", "a source", "a licence", derived)


def test_a_file_in_the_data_folder_is_taken_and_verified(places):
    mine = origin(File("table.csv", PIN))
    path = places / "data" / "set" / "table.csv"
    path.write_bytes(CONTENT)
    assert find(mine, "table.csv") == path == where(mine, mine.files[0])
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=rf"is not the file expected: its SHA-256 .* not {PIN}"):
        find(mine, "table.csv")


def test_a_file_that_a_package_of_the_system_installed_is_found_last(places):
    packaged = places / "share"
    packaged.mkdir()
    mine = dataclasses.replace(origin(File("table.csv", PIN)), packaged=str(packaged))
    (packaged / "table.csv").write_bytes(CONTENT)
    assert find(mine, "table.csv") == packaged / "table.csv"
    nearer = places / "data" / "set" / "table.csv"
    nearer.write_bytes(CONTENT)
    assert find(mine, "table.csv") == nearer


def test_a_missing_file_is_downloaded_once(places, publisher):
    address, folder = publisher
    (folder / "table.csv").write_bytes(CONTENT)
    mine = origin(File("table.csv", PIN, (address + "moved.csv", address + "table.csv")))
    path = find(mine, "table.csv")  # the first address fails, the mirror answers
    assert path.read_bytes() == CONTENT
    (folder / "table.csv").unlink()
    assert find(mine, "table.csv") == path


def test_a_download_of_something_else_is_refused(places, publisher):
    address, folder = publisher
    (folder / "table.csv").write_bytes(b"<html>gone</html>")
    mine = origin(File("table.csv", PIN, (address + "table.csv",)))
    with pytest.raises(FileNotFoundError, match="another SHA-256 than the one pinned"):
        find(mine, "table.csv")
    assert where(mine, mine.files[0]) is None


def test_no_network_says_where_to_put_the_file(places):
    url = "http://127.0.0.1:9/table.csv"
    mine = origin(File("table.csv", PIN, (url,)))
    sentence = rf"downloading failed \({url}: no answer .*\); download {url} to set/table\.csv"
    with pytest.raises(FileNotFoundError, match=sentence):
        find(mine, "table.csv")


def test_what_is_published_nowhere_says_so(places, monkeypatch):
    mine = origin(File("features.npz", PIN), derived="made for this project")
    sentence = r"put it at set/features\.npz .* cannot be downloaded \(made for this project\)"
    with pytest.raises(FileNotFoundError, match=sentence):
        find(mine, "features.npz")
    monkeypatch.delenv("LEAVEOUT_DATA")
    with pytest.raises(FileNotFoundError, match="LEAVEOUT_DATA is not set"):
        find(mine, "features.npz")


def test_members_of_archives_are_pinned_not_the_archive(places):
    mine = origin(File("set.zip", urls=("http://127.0.0.1:9/",), members=(("table.csv", PIN),)))
    path = places / "data" / "set" / "set.zip"

    def pack(**members):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name.replace("__", "/") + ".csv", content)

    pack(folder__table=CONTENT, other=b"")
    assert member(mine, "set.zip", "table.csv") == CONTENT
    pack(other=b"")
    with pytest.raises(ValueError, match=r"expected one table\.csv in .*, got 0; download"):
        member(mine, "set.zip", "table.csv")
    pack(table=CONTENT[1:])
    with pytest.raises(ValueError, match=r"table\.csv in .* is not the file expected"):
        member(mine, "set.zip", "table.csv")
    pack(table=CONTENT)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="is damaged or truncated"):
        member(mine, "set.zip", "table.csv")


def test_parsed_arrays_are_kept_until_pins_or_code_change(places):
    made = []

    def parse():
        made.append(1)
        return {"x": np.arange(3)}

    mine = origin(File("table.csv", PIN))
    for source, code, times in ((mine, b"1", 1), (mine, b"1", 1), (mine, b"2", 2)):
        assert cached(source, "set", parse, code)["x"].tolist() == [0, 1, 2]
        assert len(made) == times
    other = dataclasses.replace(mine, files=(File("table.csv", "0" * 64),))
    cached(other, "set", parse, b"2")
    assert len(made) == 3
    assert len(list((places / "cache" / "parsed").iterdir())) == 1  # no heap of old ones


def test_a_cache_that_cannot_be_written_is_done_without(places, monkeypatch):
    (places / "file").write_text("in the way")
    monkeypatch.setenv("LEAVEOUT_CACHE", str(places / "file"))
    assert cached(origin(), "set", lambda: {"x": np.ones(2)}, b"")["x"].sum() == 2
