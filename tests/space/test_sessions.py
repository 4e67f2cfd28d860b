"""Visitors' folders: apart from each other, found by secrets alone, and given back."""

import stat
import time

import pytest

from spaces_demo.limits import RefusedError
from spaces_demo.sessions import SessionStore


def test_each_page_has_a_folder_of_its_own(tmp_path):
    store = SessionStore(tmp_path / "s")
    one, two = store.get("page-1"), store.get("page-2")
    assert one is store.get("page-1") and one is not two
    assert one.folder != two.folder and one.handle != two.handle
    assert "page" not in one.folder.name and len(one.handle) >= 32
    assert stat.S_IMODE(one.folder.stat().st_mode) == 0o700


def test_a_page_that_leaves_empty_handed_is_forgotten_at_once(tmp_path):
    store = SessionStore(tmp_path)
    folder = store.get("page").folder
    store.leave("page")
    store.leave("never seen")
    assert not folder.exists() and len(store) == 0


def test_a_page_that_leaves_at_work_is_cancelled_and_kept_until_it_ends(tmp_path):
    store = SessionStore(tmp_path, grace_seconds=0.05)
    session = store.get("page")
    session.running = 1
    store.leave("page")
    time.sleep(0.1)
    store.sweep()
    assert session.cancel.is_set() and session.folder.exists()
    session.running = 0
    store.sweep()
    assert not session.folder.exists()


def test_only_the_handle_of_a_closed_page_is_handed_over(tmp_path):
    store = SessionStore(tmp_path)
    made = store.get("before")
    made.erased = object()
    store.get("stranger")
    assert store.claim("after", made.handle) is None  # still open: another tab
    store.leave("before")
    assert store.claim("after", "guess") is None
    assert store.claim("after", made.handle) is made
    assert store.get("after") is made
    assert store.get("before") is not made
    assert store.claim("again", made.handle) is None


def test_a_closed_page_goes_after_the_grace_time_and_an_idle_one_later(tmp_path):
    store = SessionStore(tmp_path, idle_seconds=0.3, grace_seconds=0.05)
    left, idle = store.get("left"), store.get("idle")
    left.erased = idle.erased = object()
    store.leave("left")
    assert left.folder.exists()
    time.sleep(0.1)
    store.sweep()
    assert not left.folder.exists() and idle.folder.exists()
    time.sleep(0.3)
    store.sweep()
    assert not idle.folder.exists() and len(store) == 0


def test_the_longest_unused_goes_when_there_are_too_many_or_too_much(tmp_path):
    store = SessionStore(tmp_path, most=2, most_bytes=1000)
    first, second = store.get("1"), store.get("2")
    first.running = 1
    third = store.get("3")
    assert first.folder.exists() and not second.folder.exists() and third.folder.exists()  # the first is at work
    first.running = 0
    (third.folder / "big").write_bytes(b"x" * 900)
    (first.folder / "big").write_bytes(b"x" * 900)
    store.get("3")
    assert not first.folder.exists() and third.folder.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".hidden", ""])
def test_file_names_cannot_leave_the_folder(tmp_path, name):
    session = SessionStore(tmp_path).get("page")
    with pytest.raises(RefusedError, match="plain file name"):
        session.file(name)


def test_a_plain_file_name_is_in_the_folder(tmp_path):
    session = SessionStore(tmp_path).get("page")
    assert session.file("model.zip") == session.folder / "model.zip"
    (session.folder / "link.zip").symlink_to("/etc/hostname")
    with pytest.raises(RefusedError):
        session.file("link.zip")


def test_closing_deletes_everything(tmp_path):
    store = SessionStore(tmp_path / "s")
    store.get("page")
    store.close()
    assert not (tmp_path / "s").exists()
