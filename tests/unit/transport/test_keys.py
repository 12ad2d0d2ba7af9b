"""Keys in files: what is read, what is refused by file and line, and that no secret is shown."""

from __future__ import annotations

import stat

import pytest

from service.dataflow.transport.keys import (
    FILE_BYTES_MAX,
    new_pair,
    read_allowed,
    read_secret,
    write_secret,
)
from service.errors import UsageError

KEY, SECOND = new_pair(), new_pair()


def test_a_key_is_written_for_its_owner_alone_and_read_back(tmp_path):
    path = tmp_path / "worker-0.key"
    write_secret(path, KEY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_secret(path) == KEY
    with pytest.raises(UsageError, match="is there already"):
        write_secret(path, SECOND)
    assert read_secret(path) == KEY


def test_no_text_of_a_pair_shows_its_secret(tmp_path):
    assert KEY.secret.hex() not in repr(KEY)
    assert str(KEY.secret) not in repr(KEY)
    path = tmp_path / "key"
    path.write_text(f"{KEY.secret.hex()} worker-0")
    with pytest.raises(UsageError, match="does not hold one secret key") as caught:
        read_secret(path)
    assert KEY.secret.hex() not in str(caught.value)


def test_a_key_may_be_one_slots_a_roles_or_everybodys(tmp_path):
    path = tmp_path / "allowed"
    path.write_text(
        f"# who may take part\n\n{KEY.public} worker-0,gateway-* # rack 1\n"
        f"{SECOND.public} *\n{KEY.public}  controller\n"
    )
    allowed = read_allowed(path)
    slots = ("worker-0", "worker-1", "gateway-0", "gateway-17", "controller")
    assert [allowed.allows(KEY.public, slot) for slot in slots] == [True, False, True, True, True]
    assert all(allowed.allows(SECOND.public, slot) for slot in slots)
    assert allowed.has(KEY.public)
    assert not allowed.has(KEY.secret.hex())
    assert not allowed.allows("", "worker-0")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "lists no key, so nobody could take part"),
        ("# nothing\n", "lists no key"),
        ("\nworker-0\n", "line 2 begins with no public key"),
        (f"{KEY.public[:-1]} *", "line 1 begins with no public key"),
        (f"{KEY.public.upper()} *", "line 1 begins with no public key"),
        (f"{KEY.public}", "line 1: no slots"),
        (f"{KEY.public} everybody", "line 1: 'everybody' names no slots"),
        (f"{KEY.public} worker", "'worker' names no slots"),
        (f"{KEY.public} worker-0,-1", "'-1' names no slots"),
    ],
    ids=["empty", "comment", "no-key", "short", "capitals", "no-slots", "word", "role", "number"],
)
def test_a_list_that_is_wrong_is_named_by_line(tmp_path, text, complaint):
    path = tmp_path / "allowed"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_allowed(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_keys_are_refused(tmp_path):
    with pytest.raises(UsageError, match="links.key_file: .*cannot be read: No such file"):
        read_secret(tmp_path / "missing")
    with pytest.raises(UsageError, match="links.allowed_file: .*cannot be read: Is a directory"):
        read_allowed(tmp_path)
    large = tmp_path / "large"
    large.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(UsageError, match="more than 1048576 bytes"):
        read_allowed(large)
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        write_secret(tmp_path / "nowhere" / "key", KEY)
