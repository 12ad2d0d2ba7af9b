"""Numbers of bytes as people write them."""

from __future__ import annotations

import pytest

from service.errors import UsageError
from service.sizes import bytes_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1048576", 1 << 20),
        ("4GiB", 4 << 30),
        ("4 gib", 4 << 30),
        ("1.5MiB", 3 << 19),
        ("2GB", 2_000_000_000),
        ("7 B", 7),
    ],
)
def test_a_size_is_read(text, expected):
    assert bytes_of(text, "--size") == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1", "4 GiBs", "4x", "1e9", "four"])
def test_what_is_no_size_is_refused_with_the_options_name(text):
    with pytest.raises(UsageError, match="--size .*write 4GiB"):
        bytes_of(text, "--size")
