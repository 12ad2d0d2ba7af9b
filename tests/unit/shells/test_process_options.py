"""Which slot a process plays and under which address it is reached, as its command line says."""

from __future__ import annotations

import pytest

from service.addresses import advertised
from service.errors import UsageError
from service.ids import Membership, Role, Slot
from service.process_options import slot_of

KAFKA = "127.0.0.1:9092"


@pytest.mark.parametrize(
    ("text", "host", "slot"),
    [
        ("0", "somewhere", "worker-0"),
        ("17", "somewhere-3", "worker-17"),
        ("any", "somewhere-3", "worker-any"),
        ("ordinal", "worker-3", "worker-3"),
        ("ordinal", "bids-2-worker-12", "worker-12"),
        ("ordinal", "worker-4.worker.shop-1.svc.cluster.local", "worker-4"),
    ],
)
def test_a_slot_is_a_number_any_or_the_hosts_ordinal(text, host, slot):
    assert str(slot_of(Role.WORKER, text, host)) == slot


@pytest.mark.parametrize(
    ("text", "host", "said"),
    [
        ("-1", "h", "'-1' is no slot; write a number, any or ordinal"),
        ("first", "h", "'first' is no slot"),
        ("1.5", "h", "'1.5' is no slot"),
        ("", "h", "'' is no slot"),
        ("ordinal", "laptop", "'laptop' does not end with - and a number"),
        ("ordinal", "laptop3", "--slot N or --slot any"),
        ("ordinal", "laptop.rack-3", "'laptop.rack-3' does not end"),
    ],
)
def test_what_is_no_slot_is_refused(text, host, said):
    with pytest.raises(UsageError) as refused:
        slot_of(Role.GATEWAY, text, host)
    assert said in str(refused.value)


def test_any_slot_is_no_member_and_no_name_of_a_slot():
    slot = Slot.any_of(Role.GATEWAY)
    assert slot.is_any
    assert not Slot(Role.GATEWAY, 0).is_any
    with pytest.raises(UsageError, match="gateway-any is no member"):
        Membership(2, 2).peer(slot)
    with pytest.raises(UsageError, match="'gateway-any' is no slot"):
        Slot.parse(str(slot))


@pytest.mark.parametrize(
    ("endpoint", "host", "told"),
    [
        ("tcp://127.0.0.1:7070", "", "tcp://127.0.0.1:7070"),
        ("tcp://10.1.2.3:7070", "", "tcp://10.1.2.3:7070"),
        ("tcp://0.0.0.0:7070", "worker-3.worker", "tcp://worker-3.worker:7070"),
        ("tcp://10.1.2.3:7070", "worker-3", "tcp://worker-3:7070"),
        ("tcp://[::]:7070", "worker-3", "tcp://worker-3:7070"),
        # From where Kafka on this machine would be asked.
        ("tcp://0.0.0.0:7070", "", "tcp://127.0.0.1:7070"),
        ("ipc:///tmp/a-socket", "", "ipc:///tmp/a-socket"),
        ("ipc:///tmp/a-socket", "worker-3", "ipc:///tmp/a-socket"),
        ("memory:3", "", "memory:3"),
    ],
)
def test_others_are_told_the_name_given_or_an_address_that_leads_here(endpoint, host, told):
    assert advertised(endpoint, host, KAFKA) == told


@pytest.mark.parametrize("servers", ["", "kafka", "127.0.0.1:kafka"])
def test_without_a_way_to_kafka_a_name_has_to_be_given(servers):
    with pytest.raises(UsageError, match="links.advertise"):
        advertised("tcp://0.0.0.0:7070", "", servers)
