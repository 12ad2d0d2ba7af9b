"""How rows become the bytes of records: Avro with a header, or JSON.

Flow: KafkaSink of a flow -> [encoder_of] -> RowEncoder -> KafkaSinkWriter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.avro.encoder import Encoder, compile_encoder
from service.avro.schema import RecordSchema
from service.avro.wire import header
from service.dataflow.vertices import KafkaSink
from service.json_text.encoder import JsonEncoder


class RowEncoder(Protocol):
    """Writes rows as the values of records."""

    @property
    def label(self) -> str:
        """What rows must fit, in words."""
        ...

    def encode(
        self, columns: Mapping[str, pa.Array]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of n rows and n + 1 offsets: row i is data[offsets[i]:offsets[i + 1]].

        Raises:
            DataError: a column is missing or does not fit.
        """
        ...


class AvroRows:
    """Avro in the wire format of a schema registry."""

    def __init__(self, schema_id: int, encoder: Encoder) -> None:
        """Put the header of `schema_id` before each row."""
        self.label = f"schema {schema_id}"
        self._encoder = encoder
        self._header = header(schema_id)

    def encode(
        self, columns: Mapping[str, pa.Array]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Encode the fields of the schema; see `Encoder.encode`."""
        return self._encoder.encode(columns, self._header)


class JsonRows:
    """A JSON object a row."""

    label = "JSON"

    def __init__(self) -> None:
        """Nothing to prepare."""
        self._encoder = JsonEncoder()

    def encode(
        self, columns: Mapping[str, pa.Array]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Encode every column; see `JsonEncoder.encode`."""
        return self._encoder.encode(columns)


def encoder_of(sink: KafkaSink, schemas: Callable[[int], RecordSchema]) -> RowEncoder:
    """What writes the rows of a sink; `schemas` finds one by its id.

    Raises:
        SchemaError: the registry has no such schema, or no kernel covers it.
        RegistryUnavailable: the registry does not answer.

    Cost: compiles a kernel, or fetches it from the disk.
    """
    if sink.schema is None or sink.format == "json":
        rows = JsonRows()
        rows.encode({"warm": pa.array([1])})
        return rows
    return AvroRows(sink.schema, compile_encoder(schemas(sink.schema)))
