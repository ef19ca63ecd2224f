#!/usr/bin/env python3
"""A stand-in for one Pinecone index, data plane of API 2025-10: it checks as Pinecone does, keeps what
it is sent, and counts how often each id came.

    pinecone.py [--port 0] [--settings JSON] [--with-parent]

POST /vectors/upsert, /vectors/delete, /query, /describe_index_stats, /namespaces; GET /vectors/list,
/vectors/fetch, /namespaces, /namespaces/NAME; DELETE /namespaces/NAME. Queries are exact, by cosine.
The default namespace is __default__, also written as an empty string.

For output, control URL, rules and settings of all stand-ins see standin.py. Settings:

    api_key            the one that is right ("pc-test")
    api_version        what X-Pinecone-Api-Version has to be ("2025-10")
    dimension          of the index (1536)
    max_vectors, max_bytes, max_metadata_bytes     1000, 2000000, 40960
    ascii_ids          refuse ids with other characters (false)
    lag_ms             writes show, in every answer, only after so long (0)
    count_lag_ms       counts lag behind what can be listed by so long (0)
    lsn                "request": writes answer with x-pinecone-request-lsn, reads with
                       x-pinecone-max-indexed-lsn; "committed": with x-pinecone-lsn-committed and
                       x-pinecone-lsn-reconciled; "" (the default): without
    int64_as_string    numbers of 64 bits as strings (false)
    ids_only           keeps ids alone, without reading the vectors: for a bench, since Python
                       takes longer to read them than their sender to write them (false). Nothing
                       is checked, fetched or found by a query then; the JSON has to be compact,
                       and an id the first member of its vector

What a rule's match knows besides: namespace; id (a substring of any id); vectors_over: more vectors
than so many. Actions besides:

    lose         answers as if all were stored, but stores none of them, or not the `last` N; a
                 fetch finds none, though they are listed
    corrupt      stores the vector at `index` (0) with its first number negated
    rate_limit   429, with retry_after

More counts: vectors (in acknowledged upserts), deleted, distinct_ids, max_upserts (of one id), lost,
and stored, now in all namespaces, whatever lags. More pages of the control URL:

    /__ids?namespace=NAME[&over=N]    {id: how often it was stored}, those above N times
    /__dump?namespace=NAME            {id: SHA-256 of its values as little-endian float32, in hex}
    /__vectors?namespace=NAME         {id: {"values": …, "metadata": …}}; [&id=ID]: that one alone
"""

import array
import bisect
import collections
import hashlib
import json
import math
import operator
import re
import sys
import threading
import time
import urllib.parse

# No __pycache__ in the checkout.
sys.dont_write_bytecode = True

from standin import Reply, Service, retry_headers, run

DEFAULT = "__default__"
ID_LENGTH = 512
# gRPC's codes, which the error bodies bear.
INVALID, NOT_FOUND, OUT_OF_RANGE, EXHAUSTED, INTERNAL, UNAVAILABLE = 3, 5, 11, 8, 13, 14
CODES = {400: INVALID, 404: NOT_FOUND, 429: EXHAUSTED, 503: UNAVAILABLE}
ROUTES = {
    ("POST", "/vectors/upsert"): "upsert",
    ("POST", "/vectors/delete"): "delete",
    ("GET", "/vectors/list"): "list",
    ("GET", "/vectors/fetch"): "fetch",
    ("POST", "/query"): "query",
    ("POST", "/describe_index_stats"): "stats",
    ("GET", "/namespaces"): "list_namespaces",
    ("POST", "/namespaces"): "create_namespace",
}
VECTOR_FIELDS = {"id", "values", "sparseValues", "metadata"}
UPSERT_FIELDS = {"vectors", "namespace"}
DELETE_FIELDS = {"ids", "deleteAll", "namespace", "filter"}
QUERY_FIELDS = {"namespace", "topK", "filter", "includeValues", "includeMetadata", "vector", "id"}
# For ids_only, and compact JSON. They begin with letters that are searched for fast. A quote within a
# string is escaped: so neither can match inside one; and metadata, which is flat, has no "}]".
ID_FIRST = re.compile(rb'\{"id":("(?:[^"\\]|\\.)*")')
NAMESPACE_FIRST = re.compile(rb'\{"namespace":("(?:[^"\\]|\\.)*")')
NAMESPACE_LAST = re.compile(rb'\}\],"namespace":("(?:[^"\\]|\\.)*")')


class Refused(Exception):
    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status = status
        self.code = code


class Namespace:
    """What it holds; changes wait in `pending` until they show. Everything under the index' lock."""

    def __init__(self):
        self.vectors = {}
        # The ids in order; None after a change.
        self.ordered = []
        self.pending = collections.deque()
        self.history = collections.deque([(0.0, 0)])
        self.lsn = self.indexed = 0

    def change(self, upserts, removals, due):
        """`removals` None: all."""
        self.lsn += 1
        self.pending.append((due, self.lsn, upserts, removals))
        return self.lsn

    def settle(self, now):
        while self.pending and self.pending[0][0] <= now:
            due, self.indexed, upserts, removals = self.pending.popleft()
            before = len(self.vectors)
            if removals is None:
                self.vectors.clear()
            for one in removals or ():
                self.vectors.pop(one, None)
            self.vectors.update(upserts)
            if removals != () or len(self.vectors) != before:
                self.ordered = None
            self.history.append((due, len(self.vectors)))
            while len(self.history) > 10000:
                self.history.popleft()

    def count(self, at):
        """How many it held then."""
        for since, count in reversed(self.history):
            if since <= at:
                return count
        return 0

    def ids(self):
        if self.ordered is None:
            # By their bytes, as Pinecone does.
            self.ordered = sorted(self.vectors, key=lambda one: one.encode())
        return self.ordered


class Pinecone(Service):
    actions = {
        "lose": {"last": int},
        "corrupt": {"index": int},
        "rate_limit": {"retry_after": (str, int)},
    }
    matches_by = {"namespace": str, "id": str, "vectors_over": int}
    settings = {
        "api_key": "pc-test",
        "api_version": "2025-10",
        "dimension": 1536,
        "max_vectors": 1000,
        "max_bytes": 2000000,
        "max_metadata_bytes": 40960,
        "ascii_ids": False,
        "lag_ms": 0,
        "count_lag_ms": 0,
        "lsn": "",
        "int64_as_string": False,
        "ids_only": False,
    }

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.namespaces = {}
        self.clear()

    def clear(self):
        self.upserts = collections.defaultdict(collections.Counter)
        self.acknowledged = self.deleted = self.lost = 0

    def reset_counts(self):
        super().reset_counts()
        with self.lock:
            self.clear()

    def counts_as_json(self):
        with self.lock:
            own = {
                "vectors": self.acknowledged,
                "deleted": self.deleted,
                "lost": self.lost,
                "distinct_ids": sum(len(ids) for ids in self.upserts.values()),
                "max_upserts": max((max(ids.values()) for ids in self.upserts.values() if ids), default=0),
                "stored": sum(len(self.settled(name).vectors) for name in self.namespaces),
            }
        return {**super().counts_as_json(), **own}

    # Pages for tests. They see what lags as well.

    def control_pages(self):
        return {"/__ids": self.ids_page, "/__dump": self.dump_page, "/__vectors": self.vectors_page}

    def ids_page(self, arguments):
        over = int(arguments.get("over", 0))
        with self.lock:
            ids = self.upserts.get(plain(arguments.get("namespace")), {})
            return {one: times for one, times in ids.items() if times > over}

    def dump_page(self, arguments):
        return {one: hashlib.sha256(packed(values)).hexdigest() for one, values, _ in self.kept(arguments)}

    def vectors_page(self, arguments):
        return {one: described(values, metadata) for one, values, metadata in self.kept(arguments)}

    def kept(self, arguments):
        name = plain(arguments.get("namespace"))
        with self.lock:
            if name not in self.namespaces:
                return []
            vectors = self.settled(name).vectors
            wanted = [arguments["id"]] if "id" in arguments else list(vectors)
            return [(one, *vectors[one]) for one in wanted if one in vectors]

    def settled(self, name):
        """The namespace with all its changes, whether they show yet or not: those that do not are
        left pending."""
        space = self.namespaces[name]
        space.settle(time.monotonic())
        if not space.pending:
            return space
        copy = Namespace()
        copy.vectors = dict(space.vectors)
        copy.pending = collections.deque(space.pending)
        copy.settle(math.inf)
        return copy

    # Requests.

    def understand(self, request):
        request.kind = ROUTES.get((request.method, request.path), "other")
        request.namespace, request.ids = plain(request.argument("namespace")), []
        if request.path.startswith("/namespaces/"):
            request.namespace = plain(urllib.parse.unquote(request.path[len("/namespaces/") :]))
            kinds = {"GET": "describe_namespace", "DELETE": "delete_namespace"}
            request.kind = kinds.get(request.method, "other")
        elif request.kind == "fetch":
            request.ids = request.arguments.get("ids", [])
        if request.method != "POST":
            return
        if request.kind == "upsert" and self.settings["ids_only"]:
            body = request.body
            # After a colon it is a member of the metadata.
            found = (one for one in ID_FIRST.finditer(body) if body[one.start() - 1] in b"[,")
            request.ids = [json.loads(one.group(1)) for one in found]
            found = NAMESPACE_FIRST.match(body) or NAMESPACE_LAST.search(body)
            request.namespace = plain(json.loads(found.group(1)) if found else None)
            return
        request.parse(parse_constant=no_number)
        document = request.document if isinstance(request.document, dict) else {}
        if isinstance(document.get("namespace", ""), str):
            request.namespace = plain(document.get("namespace"))
        if request.kind == "upsert":
            given = document.get("vectors")
            given = given if isinstance(given, list) else []
            request.ids = [one.get("id") if isinstance(one, dict) else None for one in given]
        elif request.kind == "delete" and isinstance(document.get("ids"), list):
            request.ids = document["ids"]

    def matches(self, match, request):
        return (
            ("namespace" not in match or plain(match["namespace"]) == request.namespace)
            and ("id" not in match or any(match["id"] in str(one) for one in request.ids))
            and len(request.ids) > match.get("vectors_over", -1)
        )

    def error(self, status, message, code=None, kind=None):
        if status == 401:
            return Reply(401, message.encode(), content_type="text/plain; charset=utf-8")
        code = CODES.get(status, INTERNAL) if code is None else code
        return Reply(status, {"code": code, "message": message, "details": []})

    def answer(self, request, rule):
        try:
            if request.headers.get("api-key", "") != self.settings["api_key"]:
                raise Refused(401, "Invalid API Key")
            version = request.headers.get("x-pinecone-api-version")
            if version != self.settings["api_version"]:
                wanted = self.settings["api_version"]
                raise Refused(400, f"X-Pinecone-Api-Version is {version or 'missing'}, not {wanted}")
            if request.kind == "other":
                raise Refused(404, f"No such path: {request.method} {request.path}")
            if rule and rule.action == "rate_limit":
                reply = self.error(429, "Too many requests, please try again later.")
                reply.headers.update(retry_headers(rule))
                return reply
            if request.method == "POST" and request.document is None and not self.blind(request):
                raise Refused(400, "The body is no JSON document")
            return getattr(self, request.kind)(request, rule)
        except Refused as refused:
            return self.error(refused.status, str(refused), refused.code)

    def blind(self, request):
        return request.kind == "upsert" and self.settings["ids_only"]

    # Writing.

    def upsert(self, request, rule):
        if self.blind(request):
            vectors = {one: (None, None) for one in request.ids}
        else:
            vectors = self.checked(request)
        ids = request.ids
        lost = 0
        if rule and rule.action == "lose":
            lost = min(len(ids), rule.get("last", len(ids)))
            for one in ids[len(ids) - lost :]:
                vectors.pop(one, None)
        if rule and rule.action == "corrupt":
            one = ids[rule.get("index", 0)]
            values, metadata = vectors[one]
            vectors[one] = (array.array("f", [-values[0], *values[1:]]), metadata)
        with self.lock:
            lsn = self.space(request.namespace).change(vectors, (), self.due())
            self.upserts[request.namespace].update(vectors.keys())
            self.acknowledged += len(ids)
            self.lost += lost
        return Reply(200, {"upsertedCount": self.int64(len(ids))}, self.written(lsn))

    def checked(self, request):
        if len(request.body) > (most := self.settings["max_bytes"]):
            message = f"message length too large: found {len(request.body)} bytes, "
            raise Refused(400, f"{message}the limit is {most} bytes", OUT_OF_RANGE)
        document = self.object_of(request, UPSERT_FIELDS)
        given = document.get("vectors")
        if not isinstance(given, list) or not given:
            raise Refused(400, "Empty upsert: there has to be at least one vector")
        if len(given) > (most := self.settings["max_vectors"]):
            raise Refused(400, f"Too many vectors in one upsert: {len(given)}, the limit is {most}")
        vectors = {}
        for one in given:
            if not isinstance(one, dict) or set(one) - VECTOR_FIELDS:
                raise Refused(400, "A vector has id, values, sparseValues and metadata, and nothing else")
            self.check_id(one.get("id"))
            if one["id"] in vectors:
                raise Refused(400, f"The id '{one['id']}' occurs twice in one upsert")
            vectors[one["id"]] = (self.values(one.get("values")), self.metadata(one.get("metadata")))
        return vectors

    def check_id(self, given):
        if not isinstance(given, str) or not 1 <= len(given) <= ID_LENGTH:
            raise Refused(400, f"Vector ID must have 1 to {ID_LENGTH} characters")
        if self.settings["ascii_ids"] and not given.isascii():
            raise Refused(400, f"Vector ID must be ASCII, but got '{given}'")

    def values(self, given):
        try:
            values = array.array("f", given)
        except (TypeError, OverflowError):
            raise Refused(400, "The values of a vector are a list of 32-bit numbers") from None
        if len(values) != (wanted := self.settings["dimension"]):
            message = f"Vector dimension {len(values)} does not match the dimension of the index {wanted}"
            raise Refused(400, message)
        if not any(values):
            raise Refused(400, "Dense vectors must contain at least one non-zero value")
        return values

    def metadata(self, given):
        if given is None:
            return None
        if not isinstance(given, dict):
            raise Refused(400, "Metadata is an object")
        for name, value in given.items():
            if isinstance(value, list) and all(isinstance(one, str) for one in value):
                continue
            if not isinstance(value, (str, int, float)):
                message = "Metadata value must be a string, number, boolean or list of strings, got "
                raise Refused(400, f"{message}'{json.dumps(value)}' for field '{name}'")
        size = len(json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))
        if size > (most := self.settings["max_metadata_bytes"]):
            message = f"Metadata size is {size} bytes, which exceeds the limit of {most} bytes per vector"
            raise Refused(400, message)
        return given

    def delete(self, request, rule):
        document = self.object_of(request, DELETE_FIELDS)
        if document.get("filter") is not None:
            raise Refused(400, "This stand-in deletes by id or all")
        if document.get("deleteAll"):
            if request.ids:
                raise Refused(400, "Delete all, or by id")
            removals = None
        else:
            removals = request.ids
            if not 1 <= len(removals) <= 1000 or not all(isinstance(one, str) for one in removals):
                raise Refused(400, "ids is a list of 1 to 1000 strings")
        with self.lock:
            if request.namespace not in self.namespaces:
                if removals is None:
                    raise Refused(404, "Namespace not found")
                return Reply(200, {})
            held = self.settled(request.namespace).vectors
            self.deleted += len(held) if removals is None else len(held.keys() & set(removals))
            lsn = self.space(request.namespace).change({}, removals, self.due())
        return Reply(200, {}, self.written(lsn))

    # Reading.

    def list(self, request, rule):
        limit = number_of(request.argument("limit", "100"), "limit", 1, 100)
        prefix = request.argument("prefix", "")
        after = token_of(request.argument("paginationToken"))
        with self.lock:
            space = self.shown(request.namespace)
            ids = space.ids()
            start = bisect.bisect_right(ids, after.encode(), key=lambda one: one.encode()) if after else 0
            page = []
            position = start
            while position < len(ids) and len(page) <= limit:
                if ids[position].startswith(prefix):
                    page.append(ids[position])
                position += 1
            headers = self.read(space)
        document = {"vectors": [{"id": one} for one in page[:limit]], "namespace": request.namespace}
        if len(page) > limit:
            document["pagination"] = {"next": as_token(page[limit - 1])}
        return Reply(200, {**document, "usage": {"readUnits": self.int64(1)}}, headers)

    def fetch(self, request, rule):
        if not request.ids:
            raise Refused(400, "ids is missing")
        with self.lock:
            space = self.shown(request.namespace)
            found = {one: space.vectors[one] for one in request.ids if one in space.vectors}
            if rule and rule.action == "lose":
                found = {}
            headers = self.read(space)
        vectors = {one: {"id": one, **described(*held)} for one, held in found.items()}
        document = {"vectors": vectors, "namespace": request.namespace}
        return Reply(200, {**document, "usage": {"readUnits": self.int64(1)}}, headers)

    def query(self, request, rule):
        document = self.object_of(request, QUERY_FIELDS)
        if document.get("filter"):
            raise Refused(400, "This stand-in knows no filters")
        most = number_of(document.get("topK"), "topK", 1, 10000)
        if ("vector" in document) == ("id" in document):
            raise Refused(400, "A query has either a vector or an id")
        with self.lock:
            space = self.shown(request.namespace)
            held = {one: kept for one, kept in space.vectors.items() if kept[0] is not None}
            headers = self.read(space)
        if "vector" in document:
            wanted = self.values(document["vector"])
        elif document["id"] in held:
            wanted = held[document["id"]][0]
        else:
            wanted = None
        scored = [(cosine(wanted, kept[0]), one) for one, kept in held.items()] if wanted else []
        scored.sort(key=lambda pair: (-pair[0], pair[1]))
        matches = []
        for score, one in scored[:most]:
            values, metadata = held[one]
            match = {"id": one, "score": score}
            if document.get("includeValues"):
                match["values"] = list(values)
            if document.get("includeMetadata") and metadata is not None:
                match["metadata"] = metadata
            matches.append(match)
        document = {"matches": matches, "namespace": request.namespace}
        return Reply(200, {**document, "usage": {"readUnits": self.int64(1)}}, headers)

    def stats(self, request, rule):
        with self.lock:
            counts = {name: self.shown_count(name) for name in self.namespaces}
        document = {
            "namespaces": {name: {"vectorCount": self.int64(count)} for name, count in counts.items()},
            "dimension": self.settings["dimension"],
            "indexFullness": 0,
            "totalVectorCount": self.int64(sum(counts.values())),
            "metric": "cosine",
            "vectorType": "dense",
        }
        return Reply(200, document)

    # Namespaces.

    def list_namespaces(self, request, rule):
        limit = number_of(request.argument("limit", "100"), "limit", 1, 100)
        prefix, after = request.argument("prefix", ""), token_of(request.argument("paginationToken"))
        with self.lock:
            names = sorted(self.namespaces, key=lambda one: one.encode())
            names = [one for one in names if one.startswith(prefix)]
            left = [one for one in names if not after or one.encode() > after.encode()]
            described_ones = [self.about_namespace(name) for name in left[:limit]]
        document = {"namespaces": described_ones, "total_count": len(names)}
        if len(left) > limit:
            document["pagination"] = {"next": as_token(left[limit - 1])}
        return Reply(200, document)

    def create_namespace(self, request, rule):
        name = plain(self.object_of(request, {"name", "schema"}).get("name"))
        with self.lock:
            if name in self.namespaces:
                raise Refused(409, f"Namespace '{name}' already exists", 6)
            self.space(name)
            return Reply(200, self.about_namespace(name))

    def describe_namespace(self, request, rule):
        with self.lock:
            if request.namespace not in self.namespaces:
                raise Refused(404, f"Namespace '{request.namespace}' not found")
            return Reply(200, self.about_namespace(request.namespace))

    def delete_namespace(self, request, rule):
        with self.lock:
            if request.namespace not in self.namespaces:
                raise Refused(404, f"Namespace '{request.namespace}' not found")
            self.deleted += len(self.settled(request.namespace).vectors)
            del self.namespaces[request.namespace]
        return Reply(200, {})

    def about_namespace(self, name):
        return {"name": name, "record_count": self.int64(self.shown_count(name))}

    # Small things.

    def object_of(self, request, fields):
        if not isinstance(request.document, dict):
            raise Refused(400, "The body is no JSON object")
        if unknown := set(request.document) - fields:
            raise Refused(400, "Unknown field: " + ", ".join(sorted(unknown)))
        return request.document

    def space(self, name):
        return self.namespaces.setdefault(name, Namespace())

    def shown(self, name):
        """What can be seen of it by now; one that is not there looks empty."""
        space = self.namespaces.get(name)
        if space is None:
            return Namespace()
        space.settle(time.monotonic())
        return space

    def shown_count(self, name):
        return self.shown(name).count(time.monotonic() - self.settings["count_lag_ms"] / 1000)

    def due(self):
        return time.monotonic() + self.settings["lag_ms"] / 1000

    def written(self, lsn):
        names = {"request": "x-pinecone-request-lsn", "committed": "x-pinecone-lsn-committed"}
        name = names.get(self.settings["lsn"])
        return {name: lsn} if name else {}

    def read(self, space):
        names = {"request": "x-pinecone-max-indexed-lsn", "committed": "x-pinecone-lsn-reconciled"}
        name = names.get(self.settings["lsn"])
        return {name: space.indexed} if name else {}

    def int64(self, number):
        return str(number) if self.settings["int64_as_string"] else number


def plain(name):
    return name or DEFAULT


def no_number(text):
    raise ValueError(f"{text} is no JSON")


def number_of(given, name, least, most):
    try:
        number = int(given)
    except (TypeError, ValueError):
        raise Refused(400, f"{name} is no number") from None
    if isinstance(given, (bool, float)) or not least <= number <= most:
        raise Refused(400, f"{name} has to be from {least} to {most}")
    return number


def as_token(text):
    return text.encode().hex()


def token_of(given):
    try:
        return bytes.fromhex(given).decode() if given else None
    except ValueError:
        raise Refused(400, "Invalid pagination token") from None


def packed(values):
    """Little-endian float32."""
    if values is None:
        return b""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def described(values, metadata):
    known = {"values": list(values)} if values is not None else {}
    return known if metadata is None else {**known, "metadata": metadata}


def cosine(one, other):
    product = sum(map(operator.mul, one, other))
    norms = sum(map(operator.mul, one, one)) * sum(map(operator.mul, other, other))
    return product / math.sqrt(norms) if norms else 0.0


if __name__ == "__main__":
    run(Pinecone(), "A stand-in for a Pinecone index; see its head.")
