"""Packed input against memory: codecs, answers of many batches, what Kafka does not tell."""

from __future__ import annotations

import zlib

import pyarrow as pa
import pytest

from service.doctor.cluster_facts import TopicFacts
from service.doctor.finding import Verdict
from service.doctor.unpacking import RATIO_MAX, judge_unpacking, unpacked_bytes
from service.ingest.consumer import client_config

MIB, GIB = 1 << 20, 1 << 30


def topic(compression="producer", batch=MIB, partitions=1):
    config = {"compression.type": compression, "max.message.bytes": str(batch)}
    return TopicFacts(partitions, 1, None, config)


def judged(facts, memory=GIB, gateways=1):
    finding = judge_unpacking({"in": facts}, ["in"], gateways, memory)
    assert finding.name == "limits.unpacked"
    return finding


@pytest.mark.parametrize(
    ("compression", "verdict"),
    [
        ("uncompressed", Verdict.GOOD),
        ("snappy", Verdict.GOOD),
        ("lz4", Verdict.GOOD),
        ("gzip", Verdict.WARNING),
        ("zstd", Verdict.WARNING),
        ("producer", Verdict.WARNING),
    ],
)
def test_a_gateway_of_a_gib_survives_what_its_topic_lets_through(compression, verdict):
    assert judged(topic(compression)).verdict is verdict


def test_a_warning_names_topic_memory_and_how_to_mend():
    found = judged(topic("gzip"))
    assert "in (compression.type=gzip) may take 3.2 GB" in found.says
    assert "1.1 GB here" in found.says
    assert "compression.type=uncompressed for in" in found.mend


def test_memory_that_is_exactly_enough_is_enough():
    most = unpacked_bytes(topic("gzip"), 1)
    assert judged(topic("gzip"), most).verdict is Verdict.GOOD
    assert judged(topic("gzip"), most - 1).verdict is Verdict.WARNING


def test_small_batches_bound_nothing_and_large_ones_count():
    """An answer holds many."""
    assert unpacked_bytes(topic("gzip", 1_000), 1) == unpacked_bytes(topic("gzip", MIB), 1)
    assert unpacked_bytes(topic("gzip", 2 * MIB), 1) == 2 * unpacked_bytes(topic("gzip"), 1)


def test_gateways_share_partitions_and_an_answer_has_an_end():
    one = unpacked_bytes(topic("lz4"), 1)
    assert unpacked_bytes(topic("lz4", partitions=5), 2) == 3 * one
    assert unpacked_bytes(topic("lz4", partitions=900), 1) == 50 * one
    large = topic("lz4", 60 * MIB, partitions=900)
    assert unpacked_bytes(large, 1) == 60 * one


@pytest.mark.parametrize(
    "config", [None, {}, {"compression.type": "new"}, {"compression.type": "gzip"}]
)
def test_what_is_not_told_is_unknown(config):
    assert judged(TopicFacts(1, 1, None, config)).verdict is Verdict.UNKNOWN


def test_inputs_that_are_not_there_are_not_judged():
    assert judge_unpacking({"out": topic()}, ["in"], 1, GIB) is None
    found = judge_unpacking({"in": topic(), "b": topic("lz4")}, ["gone", "b"], 1, GIB)
    assert found.verdict is Verdict.GOOD


def test_no_codec_makes_more_of_zeros_than_it_is_held_to():
    """And each comes close, so that the ratios are no guesses."""
    size = 64 * MIB
    zeros = bytes(size)
    found = {"gzip": size / len(zlib.compress(zeros, 9))}
    for codec, level in (("lz4", None), ("zstd", 19), ("snappy", None)):
        packed = pa.Codec(codec, compression_level=level).compress(zeros, asbytes=True)
        found[codec] = size / len(packed)
    for codec, ratio in found.items():
        assert 0.9 * RATIO_MAX[codec] < ratio <= RATIO_MAX[codec], codec
    assert RATIO_MAX["producer"] == max(RATIO_MAX.values())


def test_the_gateways_client_keeps_the_sizes_of_answers_that_are_counted_on():
    settings = client_config("127.0.0.1:1", "g", "c", 1)
    assert not {"fetch.max.bytes", "fetch.message.max.bytes", "max.partition.fetch.bytes"} & set(
        settings
    )
