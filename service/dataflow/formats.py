"""The forms that records of topics may have.

Flow: KafkaSource, KafkaSink -> [require_format], [require_types].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.errors import GraphError

#: Avro in the wire format of a schema registry, and an object a record.
FORMATS = ("avro", "json")


def require_format(whose: str, given: str) -> None:
    """Refuse a form that there is not.

    Raises:
        GraphError: it is none of FORMATS.
    """
    if given not in FORMATS:
        raise GraphError(f"{whose} format {given!r} is none of {', '.join(FORMATS)}")


def require_types(
    given: str,
    record: str,
    fields: Sequence[str],
    types: Mapping[str, str],
    times: Sequence[str],
) -> None:
    """Refuse a source of which it is not known, or said twice, what types its columns have.

    Raises:
        GraphError: it has neither record nor types, both, or names columns that are none.
    """
    if types and given == "avro":
        raise GraphError("fields of Avro have the types of its schema; leave out `types`")
    if not types and not record:
        raise GraphError("a KafkaSource needs a record, whose schema says the fields' types")
    if types and (unknown := sorted(set(fields) - set(types))):
        raise GraphError(f"KafkaSource fields {unknown} have no type in `types`")
    if unknown := sorted(set(times) - set(fields)):
        raise GraphError(f"KafkaSource times {unknown} are none of its fields")
