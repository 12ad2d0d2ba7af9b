"""Where schemas come from: a folder of <id>.avsc, or a Confluent-compatible registry.

Flow: schema id of a record -> [SchemaRegistry] -> RecordSchema, through the gate of avro.schema.

Invariants
  S1  "There is no such id" and "the registry does not answer" are different errors: the first
      concerns records, the second stops reading until it is over.
  S2  Whatever ids a producer makes up, memory and requests stay bounded: the cache has a size, an
      unknown id is not asked for again for a while, and after too many of them none is.
  S3  Requests go to the configured address only: redirects are refused, answers have a size limit.

Source: Confluent Schema Registry REST API, `GET /schemas/ids/{id}` and
        `GET /subjects/{subject}/versions/latest`.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import IO, ClassVar, Protocol

from service.avro.schema import RecordSchema, parse_schema
from service.clock import Clock
from service.errors import Domain, MegaphoneError, Retry, SchemaError, UsageError

#: Schemas kept (S2); a job sees a handful.
CACHE_MAX = 1_000
#: An id that was unknown is not asked for again for so long; new schemas appear within it.
UNKNOWN_FOR_NS = 30_000_000_000
#: So many unknown ids within UNKNOWN_FOR_NS, and unknown ids are no longer asked for (S2).
UNKNOWN_MAX = 100
#: After a failed request none is made for so long: a retrying caller must not block on each.
DOWN_FOR_NS = 1_000_000_000
ANSWER_BYTES_MAX = 4 << 20

#: Error codes of the registry: no such schema, subject or version.
_NOT_FOUND_CODES = (40401, 40402, 40403)


class UnknownSchema(SchemaError):
    """The registry answers, and has no such schema."""


class RegistryUnavailable(MegaphoneError):
    """The registry cannot be asked; whether the schema exists is not known (S1)."""

    domain: ClassVar[Domain] = "external"
    retry: ClassVar[Retry] = "backoff"


class SchemaRegistry(Protocol):
    """What decoding needs of a registry. Owned by one thread."""

    def schema(self, schema_id: int) -> RecordSchema:
        """The schema of an id.

        Raises:
            UnknownSchema: there is none.
            SchemaError: it is no record schema, or unsafe.
            RegistryUnavailable: the registry cannot be asked.
        """
        ...

    def find(self, record: str, topics: Sequence[str] = ()) -> RecordSchema:
        """The newest schema of the records named `record`, as found in `topics`.

        Raises:
            UnknownSchema, SchemaError, RegistryUnavailable: as in `schema`.
        """
        ...


class FolderRegistry:
    """Schemas as files named <id>.avsc."""

    def __init__(self, folder: Path) -> None:
        """Serve `folder`.

        Raises:
            UsageError: it is no folder.
        """
        if not folder.is_dir():
            raise UsageError(f"schema folder {folder} does not exist; it holds one <id>.avsc each")
        self._folder = folder
        self._known: OrderedDict[int, RecordSchema] = OrderedDict()

    def schema(self, schema_id: int) -> RecordSchema:
        """The schema of an id; a file is read once, and one that appears later is found."""
        if schema_id not in self._known:
            self._known[schema_id] = self._read(schema_id)
            if len(self._known) > CACHE_MAX:
                self._known.popitem(last=False)
        return self._known[schema_id]

    def find(self, record: str, topics: Sequence[str] = ()) -> RecordSchema:
        """The schema with the highest id that describes `record`; unusable ones are passed over."""
        names = (path.stem for path in self._folder.glob("*.avsc"))
        unusable = ""
        for schema_id in sorted((int(name) for name in names if name.isdecimal()), reverse=True):
            try:
                schema = self.schema(schema_id)
            except SchemaError as error:
                unusable = f"; {schema_id}.avsc is unusable: {error}"
                continue
            if schema.is_named(record):
                return schema
        raise UnknownSchema(f"no schema in {self._folder} describes a record {record!r}{unusable}")

    def _read(self, schema_id: int) -> RecordSchema:
        path = self._folder / f"{schema_id}.avsc"
        try:
            return parse_schema(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UnknownSchema(f"schema id {schema_id} is unknown: no {path}") from error
        except UnicodeDecodeError as error:
            raise SchemaError(f"{path} is not UTF-8") from error
        except OSError as error:
            raise RegistryUnavailable(f"{path} cannot be read: {error.strerror}") from error


class HttpRegistry:
    """A Confluent-compatible schema registry.

    Cost: one request for each new id, on the caller's thread, at most `timeout_s` long.
    """

    def __init__(self, url: str, clock: Clock, *, timeout_s: float = 3.0) -> None:
        """Serve the registry at `url`, which may hold a user and a password.

        Raises:
            UsageError: `url` is no http or https address.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"schema registry {_shown(url)} is no http or https address")
        host = parts.netloc.rpartition("@")[2]
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json"} | _credentials(parts)
        self._opener = urllib.request.build_opener(_NoRedirects())
        self._clock = clock
        self._timeout_s = timeout_s
        self._known: OrderedDict[int, RecordSchema | SchemaError] = OrderedDict()
        #: Monotonic time of each unknown id's answer, oldest first (S2).
        self._unknown: OrderedDict[int, int] = OrderedDict()
        self._down_until_ns = 0
        self._down_because = ""

    def schema(self, schema_id: int) -> RecordSchema:
        """The schema of an id; see SchemaRegistry."""
        found = self._known.get(schema_id)
        if found is None:
            found = self._ask(schema_id)
            self._known[schema_id] = found
            if len(self._known) > CACHE_MAX:
                self._known.popitem(last=False)
        self._known.move_to_end(schema_id)
        if isinstance(found, SchemaError):
            raise found
        return found

    def find(self, record: str, topics: Sequence[str] = ()) -> RecordSchema:
        """The newest schema of `record`, under the names the three usual strategies give it."""
        subjects = [record]
        for topic in topics:
            subjects += [f"{topic}-{record}", f"{topic}-value"]
        for subject in subjects:
            answer = self._get(f"/subjects/{urllib.parse.quote(subject, safe='')}/versions/latest")
            if answer is not None:
                schema = _schema_in(answer, f"subject {subject!r}")
                if schema.is_named(record):
                    return schema
        raise UnknownSchema(
            f"no schema at {self._base} describes a record {record!r}; "
            f"asked for the subjects {', '.join(subjects)}"
        )

    def _ask(self, schema_id: int) -> RecordSchema | SchemaError:
        self._refuse_unknown(schema_id)
        answer = self._get(f"/schemas/ids/{schema_id}")
        if answer is None:
            self._unknown[schema_id] = self._clock.monotonic_ns()
            raise UnknownSchema(f"schema id {schema_id} is unknown at {self._base}")
        try:
            return _schema_in(answer, f"schema id {schema_id}")
        except SchemaError as error:
            return error

    def _refuse_unknown(self, schema_id: int) -> None:
        """Raise if this id was unknown a moment ago, or if too many were (S2)."""
        oldest = self._clock.monotonic_ns() - UNKNOWN_FOR_NS
        while self._unknown and next(iter(self._unknown.values())) < oldest:
            self._unknown.popitem(last=False)
        if schema_id in self._unknown:
            raise UnknownSchema(f"schema id {schema_id} is unknown at {self._base}")
        if len(self._unknown) >= UNKNOWN_MAX:
            raise UnknownSchema(
                f"schema id {schema_id} was not looked up: {UNKNOWN_MAX} unknown ids came before it"
            )

    def _get(self, path: str) -> Mapping[str, object] | None:
        """The registry's answer, or None if it says that there is no such thing."""
        if self._clock.monotonic_ns() < self._down_until_ns:
            raise RegistryUnavailable(self._down_because)
        request = urllib.request.Request(self._base + path, headers=self._headers)  # noqa: S310 - the scheme was checked
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                return _json_object(response.read(ANSWER_BYTES_MAX + 1))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == HTTPStatus.NOT_FOUND and _says_not_found(error):
                    return None
                raise self._down(f"answered {error.code} {error.reason}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._down(str(error) or type(error).__name__) from error

    def _down(self, why: str) -> RegistryUnavailable:
        self._down_because = (
            f"schema registry {self._base}: {why}; check --registry and that it is up"
        )
        self._down_until_ns = self._clock.monotonic_ns() + DOWN_FOR_NS
        return RegistryUnavailable(self._down_because)


def open_registry(where: str, clock: Clock) -> SchemaRegistry:
    """A registry for an http(s) address or the path of a folder.

    Raises:
        UsageError: it is neither.
    """
    return HttpRegistry(where, clock) if "://" in where else FolderRegistry(Path(where))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error (S3)."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """Follow nothing; urllib then raises the answer as an HTTPError."""
        return


def _credentials(parts: urllib.parse.SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode("ascii")}


def _shown(url: str) -> str:
    """`url` without user and password."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if scheme else rest.rpartition("@")[2]


def _json_object(body: bytes) -> Mapping[str, object]:
    """The JSON object in `body`.

    Raises:
        ValueError: it is too large or holds none.
    """
    if len(body) > ANSWER_BYTES_MAX:
        raise ValueError(f"answer is larger than {ANSWER_BYTES_MAX} bytes")
    try:
        answer = json.loads(body)
    except RecursionError as error:
        raise ValueError("answer nests too deep") from error
    if not isinstance(answer, Mapping):
        raise ValueError("answer is no JSON object")
    return answer


def _says_not_found(error: urllib.error.HTTPError) -> bool:
    """Whether a 404 speaks of the schema; one without the registry's code means a wrong address."""
    try:
        answer = _json_object(error.read(ANSWER_BYTES_MAX + 1))
    except (OSError, HTTPException, ValueError):
        return False
    return answer.get("error_code") in _NOT_FOUND_CODES


def _schema_in(answer: Mapping[str, object], what: str) -> RecordSchema:
    kind = answer.get("schemaType", "AVRO")
    if kind != "AVRO":
        raise SchemaError(f"{what} is of type {kind}; only Avro is read")
    if answer.get("references"):
        raise SchemaError(
            f"{what} refers to other subjects; register it with all types written out"
        )
    text = answer.get("schema")
    if not isinstance(text, str):
        raise SchemaError(f"{what}: the registry's answer holds no schema")
    return parse_schema(text)
