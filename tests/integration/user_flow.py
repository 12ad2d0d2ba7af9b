"""Jobs that run the flows of `tests.integration.flows`, and their input and outputs as tables.

Flow: job -> topics -> [table_of, input_of] -> DuckDB. Decoded with fastavro, not by the service.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import duckdb
import fastavro
import pyarrow as pa

from demo.readback import Task, read_span, spans_of
from loadgen.broker import ensure_topic
from tests.integration.bids import PARTITIONS
from tests.integration.flows import SCHEMAS
from tests.integration.job import Job, read_topic, registry

_HEADER_BYTES = 5


def topics(bootstrap_servers: str, prefix: str, *outputs: str) -> str:
    """Create the input `<prefix>-events` and the outputs; returns the prefix."""
    for name in ("events", *outputs):
        ensure_topic(bootstrap_servers, f"{prefix}-{name}", PARTITIONS)
    return prefix


def start(
    bootstrap_servers: str,
    app: str,
    prefix: str,
    folder: Path,
    flow: str,
    *more: str,
    workers: int = 2,
    gateways: int = 2,
    bins: int = 64,
    environment: Mapping[str, str] | None = None,
) -> Job:
    """Start a job of the flow of that name, its topics under `prefix`; again in the same folder."""
    schemas = folder / "schemas"
    if not schemas.is_dir():
        registry(schemas, SCHEMAS)
    return Job(
        bootstrap_servers,
        app,
        folder / "state",
        f"tests.integration.flows:{flow}",
        workers=workers,
        gateways=gateways,
        bins=bins,
        arguments=["--registry", str(schemas), *more],
        environment={"FLOW_PREFIX": prefix, **(environment or {})},
    )


def table_of(bootstrap_servers: str, topic: str, schema_id: int) -> pa.Table:
    """The records of a topic as columns, with headers, partition and place (the offset).

    Each must have the schema of that id and end where its value ends.
    """
    schema = fastavro.parse_schema(SCHEMAS[schema_id])
    rows = []
    for message in read_topic(bootstrap_servers, topic):
        value = io.BytesIO(message.value() or b"")
        assert value.read(_HEADER_BYTES) == b"\x00" + schema_id.to_bytes(4, "big")
        row = fastavro.schemaless_reader(value, schema, None)
        assert isinstance(row, dict)
        assert value.read() == b""
        headers = {
            name: int(number or b"-1") for name, number in dict(message.headers() or ()).items()
        }
        place = {"partition": message.partition(), "place": message.offset()}
        rows.append({**row, **headers, **place})
    return pa.Table.from_pylist(rows)


def input_of(bootstrap_servers: str, topic: str, folder: Path) -> duckdb.DuckDBPyConnection:
    """A connection to DuckDB with the view `bids` of the input."""
    for number, span in enumerate(spans_of(bootstrap_servers, topic)):
        file = folder / f"bids-{number}.parquet"
        _, tally = read_span(Task(bootstrap_servers, "bids", span, file, 1))
        assert tally.unreadable == 0
    connection = duckdb.connect()
    connection.execute(f"create view bids as from read_parquet('{folder}/bids-*.parquet')")
    return connection
