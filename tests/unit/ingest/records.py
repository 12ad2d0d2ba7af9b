"""Records made by hand for the tests of the ingest edge."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import fastavro
from confluent_kafka import Message

from service.avro.wire import header
from service.ingest.records import RawRecords, raw_records

TOPIC = "events"


def record_schema(name: str, fields: Mapping[str, object]) -> dict[str, object]:
    """JSON of a record schema."""
    listed = [{"name": each, "type": kind} for each, kind in fields.items()]
    return {"type": "record", "name": name, "namespace": "tests", "fields": listed}


def write_schemas(folder: Path, schemas: Mapping[int, object]) -> Path:
    """Put each schema into `folder` as <id>.avsc."""
    for schema_id, schema in schemas.items():
        (folder / f"{schema_id}.avsc").write_text(json.dumps(schema))
    return folder


def value_of(schema_id: int, schema: object, record: Mapping[str, object]) -> bytes:
    """A value as a producer with a registry writes it."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), record)
    return header(schema_id) + body.getvalue()


def raw_of(values: Iterable[bytes | None], topic: str = TOPIC) -> RawRecords:
    """One poll: record i is at offset 100 + i of partition i % 3, with key b"k<i>"."""
    messages = [
        Message(topic=topic, partition=at % 3, offset=100 + at, value=value, key=b"k%d" % at)
        for at, value in enumerate(values)
    ]
    return raw_records(messages, (topic,))
