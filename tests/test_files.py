"""Files: what is read is a file; what is written is there whole or not at all; killed runs leave nothing for long."""

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from clipref import files
from clipref.files import (
    SCRATCH_SUFFIX,
    home,
    open_regular,
    read_bytes,
    remove_abandoned,
    write_folder_whole,
    write_whole,
)


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=["umask 022", "umask 077", "umask 002"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def scratch(folder: Path) -> list[str]:
    return [name for name in names(folder) if name.endswith(SCRATCH_SUFFIX)]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's address has 107 bytes
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for path in (tmp_path, tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), tmp_path / "nothing"):
            with pytest.raises(OSError):
                open_regular(path)
    with pytest.raises(OSError, match="it is a named pipe, not a file"):
        read_bytes(tmp_path / "pipe", 10)
    with pytest.raises(OSError, match="it is a folder, not a file"):
        read_bytes(tmp_path, 10)
    with pytest.raises(OSError, match="it is a device, not a file"):
        read_bytes("/dev/null", 10)
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is a device"):
        read_bytes(tmp_path / "link", 10)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_no_file_has(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no file can have this name"):
        read_bytes(tmp_path / name, 10)
    with pytest.raises(OSError, match="no file can have this name"), write_whole(tmp_path / name):
        pass


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="it has over 4 bytes"):
        read_bytes(tmp_path / "a", 4)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="it has over 1000 bytes"):
        read_bytes(tmp_path / "sparse", 1000)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_new_files_and_folders_have_what_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    with write_whole(tmp_path / "file") as path:
        path.write_text("whole")
    with write_folder_whole(tmp_path / "folder") as path:
        (path / "inside").write_text("whole")
    assert mode(tmp_path / "file") == 0o666 & ~umask == mode(tmp_path / "folder" / "inside")
    assert mode(tmp_path / "folder") == 0o777 & ~umask
    assert names(tmp_path) == ["file", "folder"]


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("old")
    secret.chmod(0o640)
    with write_whole(secret) as path:
        path.write_text("new")
        assert secret.read_text() == "old"
    assert secret.read_text() == "new" and mode(secret) == 0o640


def test_what_goes_wrong_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), write_whole(tmp_path / "file") as path:
            path.write_text("half")
            raise error
        with pytest.raises(error), write_folder_whole(tmp_path / "folder") as path:
            (path / "inside").mkdir()
            raise error
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


def test_what_cant_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    places: list[tuple[Callable[[Path], AbstractContextManager[Path]], str]] = [
        (write_whole, name) for name in ("full", "gone/x", "file/x")
    ]
    places += [(write_folder_whole, name) for name in ("full", "file", "link", "gone/x")]
    for write, name in places:
        with pytest.raises(OSError), write(tmp_path / name):
            pytest.fail(f"{write} {name}: the work began")
    assert names(tmp_path) == ["file", "full", "link"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_or_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o444)
    with pytest.raises(PermissionError), write_whole(tmp_path / "file"):
        pytest.fail("the work began")


def test_a_long_name_of_any_characters(tmp_path: Path) -> None:
    for name in ("n" * 255, "\N{CAT FACE}" * 63):
        with write_whole(tmp_path / name) as path:
            path.write_text(name)
        assert (tmp_path / name).read_text() == name


def test_a_change_of_folder_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with write_whole("file") as path, write_folder_whole("folder"):
        monkeypatch.chdir(tmp_path / "elsewhere")
        path.write_text("whole")
    assert names(tmp_path) == ["elsewhere", "file", "folder"] and names(tmp_path / "elsewhere") == []


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("old")
    (tmp_path / "link").symlink_to("victim")
    with write_whole(tmp_path / "link") as path:
        path.write_text("new")
    assert (tmp_path / "victim").read_text() == "old" and not (tmp_path / "link").is_symlink()


def test_a_pipe_or_a_terminal_is_written_to_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with write_whole(tmp_path / "pipe") as path:
        path.write_text("said")
    reader.join()
    assert read == [b"said"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    code = "from clipref.files import write_whole\nwith write_whole('/dev/stdout') as path: path.write_text('said')"
    with open(tmp_path / "redirected", "w") as output:
        subprocess.run([sys.executable, "-c", code], stdout=output, check=True)
    assert (tmp_path / "redirected").read_text() == "said" and Path("/dev/stdout").is_symlink()


def test_nobody_can_guess_the_name_or_plant_a_link_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with write_whole(tmp_path / "file") as one, write_whole(tmp_path / "file") as other:
        assert one != other and one.name.startswith(".") and str(os.getpid()) not in (one.name, other.name)
    (tmp_path / "victim").write_text("old")
    monkeypatch.setattr("secrets.token_hex", lambda n: "known")
    for write in (write_whole, write_folder_whole):
        planted = tmp_path / f".known{SCRATCH_SUFFIX}"
        planted.symlink_to("victim")
        with pytest.raises(FileExistsError), write(tmp_path / "new"):
            pytest.fail("the link was followed")
        planted.unlink()
    assert (tmp_path / "victim").read_text() == "old"


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", "~/models")
    assert home() == Path.home() / "models"
    monkeypatch.delenv("CLIPREF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert home() == Path("/caches/clipref")


# --- killed runs ------------------------------------------------------------------------------------------------------

WAITS = """
import sys, time
from clipref.files import write_folder_whole, write_whole
with write_folder_whole(sys.argv[1] + "/folder") as folder, write_whole(sys.argv[1] + "/file") as file:
    (folder / "inside").mkdir()
    (folder / "inside" / "weights").write_bytes(bytes(1000))
    file.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def run_that_waits(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", WAITS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_the_next_run_removes_what_a_killed_one_left_but_not_that_of_one_at_work(tmp_path: Path) -> None:
    killed, alive = run_that_waits(tmp_path), run_that_waits(tmp_path)
    assert len(scratch(tmp_path)) == 4
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with write_whole(tmp_path / "other") as path:
        path.write_text("whole")
        assert len(scratch(tmp_path)) == 3  # its own, and two of the run at work
    remove_abandoned(tmp_path)
    assert len(scratch(tmp_path)) == 2
    alive.send_signal(signal.SIGKILL)
    alive.communicate()
    remove_abandoned(tmp_path.parent)
    assert len(scratch(tmp_path)) == 2
    remove_abandoned(tmp_path.parent, recursive=True)
    assert names(tmp_path) == ["other"]


def test_only_scratch_is_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / f".link{SCRATCH_SUFFIX}").symlink_to("kept")
    abandoned = tmp_path / f".folder{SCRATCH_SUFFIX}"
    abandoned.mkdir()
    (abandoned / "link").symlink_to("../kept")
    os.mkfifo(tmp_path / f".pipe{SCRATCH_SUFFIX}")
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [f".link{SCRATCH_SUFFIX}", "kept"] and names(tmp_path / "kept") == ["file"]


def test_a_scratch_that_was_removed_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    taken: list[str] = []

    def flock(descriptor: int, operation: int) -> None:
        if not taken:
            taken.extend(scratch(tmp_path))
            (tmp_path / taken[0]).unlink()  # as another run does that comes between
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with write_whole(tmp_path / "file") as path:
        path.write_text("whole")
        assert path.name not in taken
    assert names(tmp_path) == ["file"]


def test_where_nothing_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / f".of another run{SCRATCH_SUFFIX}").mkdir()
    with write_whole(tmp_path / "file") as path:
        path.write_text("whole")
    assert names(tmp_path) == [f".of another run{SCRATCH_SUFFIX}", "file"]
    monkeypatch.setattr(files, "fcntl", None)  # as on Windows
    with write_whole(tmp_path / "file") as path, write_folder_whole(tmp_path / "folder"):
        path.write_text("again")
    assert names(tmp_path) == [f".of another run{SCRATCH_SUFFIX}", "file", "folder"]


def test_many_runs_at_once_take_nothing_from_each_other(tmp_path: Path) -> None:
    def write(i: int) -> None:
        for n in range(20):
            with write_whole(tmp_path / f"{i}") as path:
                path.write_text(f"{n}")
            with write_folder_whole(tmp_path / f"{i} {n}") as folder:
                (folder / "file").write_text(f"{n}")

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not scratch(tmp_path)
    assert [(tmp_path / f"{i}").read_text() for i in range(4)] == ["19"] * 4
    assert all((tmp_path / f"{i} {n}" / "file").read_text() == f"{n}" for i in range(4) for n in range(20))
