"""The memory limit of control groups of both versions, as files that a kernel would show."""

from __future__ import annotations

import psutil
import pytest

from service.doctor.cgroup import memory_limit
from service.doctor.machine import memory_bytes

NO_LIMIT = "9223372036854771712\n"


@pytest.fixture
def found(tmp_path):
    """The limit that follows from lines of /proc/self/cgroup and files below /sys/fs/cgroup."""

    def find(lines, files):
        groups = tmp_path / "cgroup"
        groups.write_text("".join(f"{line}\n" for line in lines))
        for name, text in files.items():
            path = tmp_path / "mount" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return memory_limit(groups, tmp_path / "mount")

    return find


def test_version_2_in_a_container_whose_group_is_the_root(found):
    assert found(["0::/"], {"memory.max": "1073741824\n"}) == 1 << 30


def test_version_2_takes_the_least_of_the_groups_around(found):
    files = {
        "pods/memory.max": "2000\n",
        "pods/one/memory.max": "max\n",
        "pods/one/box/memory.max": "3000\n",
        "pods/other/memory.max": "1\n",
    }
    assert found(["0::/pods/one/box"], files) == 2_000


def test_version_1_and_its_way_to_say_none(found):
    lines = ["9:cpu,cpuacct:/a", "4:memory:/box", "0::/"]
    files = {"memory/memory.limit_in_bytes": NO_LIMIT, "cpu/memory.limit_in_bytes": "1\n"}
    assert found(lines, files) is None
    files["memory/box/memory.limit_in_bytes"] = "805306368\n"
    assert found(lines, files) == 768 << 20


def test_a_path_that_only_the_host_has_leaves_what_is_mounted(found):
    files = {"memory/memory.limit_in_bytes": "5000\n"}
    assert found(["4:memory:/docker/0123"], files) == 5_000


def test_a_group_outside_of_what_is_mounted_is_not_followed(found):
    assert found(["0::/../../other"], {"../memory.max": "7\n", "memory.max": "8000\n"}) == 8_000


@pytest.mark.parametrize("text", ["max\n", "", "nonsense\n", "-1\n"])
def test_what_is_no_number_limits_nothing(found, text):
    assert found(["0::/"], {"memory.max": text}) is None


def test_a_system_without_control_groups_has_no_limit(tmp_path):
    assert memory_limit(tmp_path / "absent", tmp_path) is None


def test_a_limit_beyond_the_machine_is_the_machine():
    total = psutil.virtual_memory().total
    assert [memory_bytes(each) for each in (None, 1 << 59, 4_096)] == [total, total, 4_096]
