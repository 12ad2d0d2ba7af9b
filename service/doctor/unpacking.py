"""Whether what strangers pack into the input fits a gateway's memory once it is unpacked.

Flow: TopicFacts of the inputs, memory of this process -> [judge_unpacking] -> a finding. Pure.

The theory. `max.message.bytes` bounds a batch as it is stored. The client unpacks every batch of an
answer before it hands out the first record, so what counts is not a batch but all that an answer
may hold of a topic, times what the codec can make of a byte. A small `max.message.bytes` therefore
bounds nothing by itself: many small batches are as bad as a large one. A topic whose
`compression.type` is another codec than the producer's has the broker unpack and pack anew, and
hold the result against `max.message.bytes`; with `uncompressed` that is what a gateway meets.

Invariants
  UN1  A topic that lets more than one codec through is judged by the worst of them.
  UN2  What Kafka does not tell is unknown, never good.

Source: the formats (RFC 1951 for gzip, RFC 8878 for zstd, the block formats of LZ4 and Snappy);
measured with librdkafka 2.16: 20 zstd batches of 3 KB took 2 GB before the first record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from service.doctor.cluster_facts import TopicFacts
from service.doctor.finding import Finding, good, unknown, warning
from service.status import size_text

#: What a codec makes of one byte at most: deflate's longest match takes two bits; a sequence of lz4
#: grows by 255 a byte; snappy copies 64 bytes for three; a block of zstd repeats one byte 128 KiB
#: times in four.
RATIO_MAX: Mapping[str, int] = {
    "uncompressed": 1,
    "snappy": 22,
    "lz4": 255,
    "gzip": 1_032,
    "zstd": 32_768,
    # Whatever the producer took.
    "producer": 32_768,
}
#: What a record costs while it becomes a dead letter: unpacked, as a value, as a column.
COPIES = 3
#: What an answer may hold of a partition, and of all of them: the client's defaults, which the
#: gateway's keeps. A larger batch comes all the same, alone.
PARTITION_FETCH_BYTES = 1 << 20
FETCH_BYTES = 50 << 20


def unpacked_bytes(topic: TopicFacts, gateways: int) -> int | None:
    """What records of one answer may take in a gateway at most; None: Kafka did not tell.

    >>> config = {"compression.type": "gzip", "max.message.bytes": "1048588"}
    >>> unpacked_bytes(TopicFacts(1, 1, None, config), 1) >> 20
    3096
    """
    config = topic.config or {}
    ratio = RATIO_MAX.get(config.get("compression.type", ""))
    batch = config.get("max.message.bytes", "")
    if ratio is None or not batch.isdecimal():
        return None
    partitions = math.ceil(topic.partitions / gateways)
    packed = partitions * max(PARTITION_FETCH_BYTES, int(batch))
    return COPIES * ratio * min(packed, max(FETCH_BYTES, int(batch)))


def judge_unpacking(
    topics: Mapping[str, TopicFacts], inputs: Sequence[str], gateways: int, memory: int
) -> Finding | None:
    """What may be packed into the inputs against `memory`, bytes; None: none of them exists.

    Args:
        topics: those that exist.
        inputs: those that the flow reads.
        gateways: how many share the partitions of each.
        memory: what this process may take; a gateway's if this is where gateways run.
    """
    check = "limits.unpacked"
    there = {name: unpacked_bytes(topics[name], gateways) for name in inputs if name in topics}
    if not there:
        return None
    untold = [name for name, most in there.items() if most is None]
    beyond = {name: most for name, most in there.items() if most is not None and most > memory}
    if beyond:
        each = "; ".join(
            f"{name} (compression.type={(topics[name].config or {})['compression.type']}) may "
            f"take {size_text(most)} once unpacked"
            for name, most in beyond.items()
        )
        return warning(
            check,
            f"a gateway may take {size_text(memory)} here, but what may be packed into an answer "
            f"about {each}",
            "where strangers may write: kafka-configs.sh --alter --add-config "
            f"compression.type=uncompressed for {', '.join(beyond)}, so that the broker refuses "
            "what is larger than max.message.bytes once unpacked; what is stored already stays as "
            "it is",
        )
    if untold:
        return unknown(
            check,
            f"Kafka does not tell us the configuration of {', '.join(untold)}",
            "grant DESCRIBE_CONFIGS on the inputs to whoever asks, or look at compression.type and "
            "max.message.bytes yourself",
        )
    most = max(bytes_ for bytes_ in there.values() if bytes_ is not None)
    return good(
        check, f"what is packed takes {size_text(most)} at most, of {size_text(memory)} here"
    )
