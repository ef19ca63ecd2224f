#!/usr/bin/env python3
"""A proxy before an S3 server that misbehaves on demand, and counts.

    faults.py --upstream http://127.0.0.1:PORT [--port 0] [--control FILE] [--with-parent]

Prints port=, control_port=, endpoint= and control= (the URLs) once it listens, and runs until
SIGTERM; with --with-parent also until the process that started it ends. Requests and answers pass
byte for byte, the Host header as well: the client signs the proxy's address, and the server verifies
what it is sent. Bodies are never held as a whole.

The control URL:

    PUT /__faults      replaces the rules by those of a JSON list; GET reads, DELETE clears them
    GET /__counts      what has passed since the start or the last DELETE /__counts
    GET /__requests    the latest requests in the order of their arrival, one object each

--control names a file with rules to begin with; SIGHUP reads it again.

A rule is an object. The first one that matches a request and is not used up takes it:

    match     {"method": "PUT", "kind": "upload_part", "path": REGEX, "query": REGEX}, all optional;
              for the kinds see kind_of()
    action    one of those below
    times     how often (1; 0 means for ever)
    skip      how many matching requests pass unharmed before (0)

    cut             closes the connection after `after` bytes of the request's body (0)
    cut_response    closes it after `after` bytes of the answer's body (0)
    drop_reply      lets the server do what it was asked to, then closes without an answer
    status          answers `status` (503) with an <Error> of `code` and `message`, and with
                    `retry_after` as Retry-After; the server sees nothing of it. With "early": true
                    before the body is read, closing the connection
    complete_error  answers a CompleteMultipartUpload with status 200 and an <Error> of `code`
                    (InternalError); the server sees nothing of it
    slow            waits `delay` seconds (0.1) before every `chunk` bytes (65536), in both directions
    hang            takes the request and never answers; closes after `seconds`, when given
    corrupt         flips a bit of the byte at `offset` (0) of the answer's body
"""

import argparse
import collections
import http.server
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.parse

PIECE = 256 * 1024
HEAD_LIMIT = 64 * 1024
REQUESTS_KEPT = 5000

# What S3 says with a status when a rule names no code.
CODES = {
    400: "BadRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "OperationAborted",
    500: "InternalError",
    503: "SlowDown",
}

# action: its own members of a rule, with the type of each.
ACTIONS = {
    "cut": {"after": int},
    "cut_response": {"after": int},
    "drop_reply": {},
    "status": {"status": int, "code": str, "message": str, "retry_after": int, "early": bool},
    "complete_error": {"code": str, "message": str},
    "slow": {"delay": float, "chunk": int},
    "hang": {"seconds": float},
    "corrupt": {"offset": int},
}


class Closed(Exception):
    """One side of an exchange has ended it before its time."""


# --- HTTP/1.1, as much of it as passes through ---------------------------------------------------


class Stream:
    """A connection's incoming side."""

    def __init__(self, sock):
        self.sock = sock
        self.held = b""

    def read(self, limit):
        """At least one and at most `limit` bytes; none at the end."""
        if self.held:
            piece, self.held = self.held[:limit], self.held[limit:]
            return piece
        try:
            return self.sock.recv(limit)
        except OSError as error:
            raise Closed(str(error)) from error

    def until(self, mark):
        """All up to and with the mark; b"" when the other side has closed before the first byte."""
        searched = 0
        held, self.held = self.held, b""
        while (found := held.find(mark, searched)) < 0:
            if len(held) > HEAD_LIMIT:
                raise Closed("a head without an end")
            # The mark may begin in what is there.
            searched = max(0, len(held) - len(mark) + 1)
            piece = self.read(HEAD_LIMIT)
            if not piece:
                if held:
                    raise Closed("closed within a head")
                return b""
            held += piece
        end = found + len(mark)
        self.held = held[end:]
        return held[:end]

    def line(self):
        return self.until(b"\r\n")

    def head(self):
        return self.until(b"\r\n\r\n")


class Head:
    """A request's or an answer's first line and headers; `raw` is what goes on."""

    def __init__(self, raw):
        self.raw = raw
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        self.words = first.split(" ", 2)
        self.headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()

    def closes(self):
        return "close" in self.headers.get("connection", "").lower()

    def length(self):
        """The length of the body, "chunked", or None when no header says any."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return "chunked"
        text = self.headers.get("content-length")
        return None if text is None else int(text)


class Request(Head):
    def __init__(self, raw):
        super().__init__(raw)
        if len(self.words) != 3:
            raise Closed("not a request")
        self.method, self.target, _ = self.words
        self.path, _, self.query = self.target.partition("?")
        self.kind = kind_of(self.method, self.path, self.query, self.headers)

    def body_length(self):
        return self.length() or 0

    def waits(self):
        """Whether the client wants to be asked for the body."""
        return self.headers.get("expect", "").lower() == "100-continue" and self.body_length() != 0


class Answer(Head):
    def __init__(self, raw):
        super().__init__(raw)
        if len(self.words) < 2 or not self.words[1].isdigit():
            raise Closed("not an answer")
        self.status = int(self.words[1])

    def is_final(self):
        return self.status >= 200

    def body_length(self, method):
        """As length(); None here means up to the end of the connection."""
        if method == "HEAD" or self.status in (204, 304):
            return 0
        return self.length()


def kind_of(method, path, query, headers):
    """What an S3 request is, as one word."""
    bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
    host = headers.get("host", "").partition(":")[0]
    if host.endswith(".localhost"):
        bucket, key = host[: -len(".localhost")], urllib.parse.unquote(path)[1:]
    names = {item.partition("=")[0] for item in query.split("&")}
    if not bucket:
        return "list_buckets"
    if not key:
        if "uploads" in names:
            return "list_uploads"
        if method == "POST" and "delete" in names:
            return "delete_objects"
        if method == "GET" and "location" in names:
            return "bucket_location"
        kinds = {"PUT": "create_bucket", "GET": "list_objects", "HEAD": "head_bucket"}
        return kinds.get(method, method.lower() + "_bucket")
    if method == "POST" and "uploads" in names:
        return "create_multipart"
    if "uploadId" in names:
        kinds = {"PUT": "upload_part", "POST": "complete_multipart"}
        kinds.update({"DELETE": "abort_multipart", "GET": "list_parts"})
        return kinds.get(method, method.lower() + "_multipart")
    if method == "PUT" and "x-amz-copy-source" in headers:
        return "copy_object"
    return method.lower() + "_object"


def pieces(stream, length, limit=PIECE):
    """The bytes of a body as they come, as pairs (bytes, whether they are content)."""
    if length == "chunked":
        while True:
            line = stream.line()
            yield line, False
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            yield from pieces(stream, size, limit)
            yield stream.line(), False
        # Trailers, and the empty line after them.
        while True:
            line = stream.line()
            yield line, False
            if line in (b"\r\n", b""):
                return
    left = length
    while left is None or left > 0:
        piece = stream.read(limit if left is None else min(limit, left))
        if not piece:
            if left is None:
                return
            raise Closed("closed within a body")
        if left is not None:
            left -= len(piece)
        yield piece, True


# --- rules and counts ----------------------------------------------------------------------------


class Rule:
    def __init__(self, given):
        if not isinstance(given, dict) or given.get("action") not in ACTIONS:
            raise ValueError("a rule is an object with an action of: " + ", ".join(ACTIONS))
        self.action = given["action"]
        known = dict(ACTIONS[self.action], action=str, match=dict, times=int, skip=int)
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"{self.action} knows no {name}")
            wanted = (int, float) if known[name] is float else known[name]
            if not isinstance(value, wanted):
                raise ValueError(f"{name} is no {known[name].__name__}")
        self.options = given
        self.match = given.get("match", {})
        if self.action == "complete_error":
            self.match = {"kind": "complete_multipart", **self.match}
        if unknown := set(self.match) - {"method", "kind", "path", "query"}:
            raise ValueError("match knows no " + ", ".join(unknown))
        for name in ("path", "query"):
            re.compile(self.match.get(name, ""))
        self.skip = given.get("skip", 0)
        self.left = given.get("times", 1) or None

    def get(self, name, default=None):
        return self.options.get(name, default)

    def matches(self, request):
        match = self.match
        return (
            self.left != 0
            and match.get("method", request.method) == request.method
            and match.get("kind", request.kind) == request.kind
            and re.search(match.get("path", ""), request.path) is not None
            and re.search(match.get("query", ""), request.query) is not None
        )

    def as_json(self):
        return {**self.options, "skip": self.skip, "left": self.left}


class Rules:
    def __init__(self):
        self.lock = threading.Lock()
        self.rules = []

    def replace(self, text):
        given = json.loads(text)
        if not isinstance(given, list):
            raise ValueError("the rules are a list")
        rules = [Rule(one) for one in given]
        with self.lock:
            self.rules = rules

    def take(self, request):
        """The rule that applies to the request; uses it up by one."""
        with self.lock:
            for rule in self.rules:
                if not rule.matches(request):
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                if rule.left is not None:
                    rule.left -= 1
                return rule
        return None

    def as_json(self):
        with self.lock:
            return [rule.as_json() for rule in self.rules]


class Counts:
    """Each number is there before the client can know of what it counts."""

    def __init__(self):
        self.lock = threading.Lock()
        self.in_flight = 0
        self.reset()

    def reset(self):
        with self.lock:
            self.numbers = {
                name: collections.Counter() for name in ("by_method", "by_kind", "statuses", "faults")
            }
            self.bytes_in = self.bytes_out = self.requests = self.connections = 0
            self.max_in_flight = self.in_flight
            self.latest = collections.deque(maxlen=REQUESTS_KEPT)

    def connected(self):
        with self.lock:
            self.connections += 1

    def begin(self, request, rule):
        entry = {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "kind": request.kind,
            "headers": request.headers,
            "fault": rule.action if rule else None,
            "status": None,
            "bytes_in": 0,
            "bytes_out": 0,
        }
        with self.lock:
            self.requests += 1
            self.numbers["by_method"][request.method] += 1
            self.numbers["by_kind"][request.kind] += 1
            if rule:
                self.numbers["faults"][rule.action] += 1
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            self.latest.append(entry)
        return entry

    def end(self):
        with self.lock:
            self.in_flight -= 1

    def status(self, entry, status):
        with self.lock:
            entry["status"] = status
            self.numbers["statuses"][str(status)] += 1

    def received(self, entry, count):
        with self.lock:
            entry["bytes_in"] += count
            self.bytes_in += count

    def sent(self, entry, count):
        with self.lock:
            entry["bytes_out"] += count
            self.bytes_out += count

    def as_json(self):
        with self.lock:
            plain = ("requests", "connections", "bytes_in", "bytes_out", "in_flight", "max_in_flight")
            return {
                **{name: getattr(self, name) for name in plain},
                **{name: dict(numbers) for name, numbers in self.numbers.items()},
            }

    def latest_as_json(self):
        with self.lock:
            return [dict(entry) for entry in self.latest]


# --- the proxy -----------------------------------------------------------------------------------


class Exchange:
    """One request and its answer. run() returns whether the client's connection can go on."""

    def __init__(self, proxy, stream, request, rule, entry):
        self.proxy = proxy
        self.counts = proxy.counts
        self.stream = stream
        self.client = stream.sock
        self.request = request
        self.rule = rule
        self.action = rule.action if rule else None
        self.entry = entry
        self.upstream = None
        # Both directions have to be through before the connection can take the next request.
        self.body_done = False
        self.body_wanted = not request.waits()

    def option(self, name, default=None):
        return self.rule.get(name, default)

    def run(self):
        if self.action in ("status", "complete_error"):
            return self.refuse()
        if self.action == "hang":
            return self.hang()
        try:
            self.upstream = socket.create_connection(self.proxy.upstream)
        except OSError as error:
            self.drain()
            self.answer(502, "BadGateway", f"the upstream cannot be reached: {error}")
            return False
        self.upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return self.forward()
        finally:
            self.upstream.close()

    # Answers of the proxy's own.

    def refuse(self):
        early = bool(self.option("early")) or self.request.waits()
        if not early:
            self.drain()
        if self.action == "complete_error":
            status, code = 200, self.option("code", "InternalError")
        else:
            status = self.option("status", 503)
            code = self.option("code", CODES.get(status, "InternalError"))
        self.answer(status, code, self.option("message", "Injected by the test."), early)
        if early:
            linger(self.client)
        return not early and not self.request.closes()

    def answer(self, status, code, message, close=False):
        # Blank lines before the document, as S3 sends them to keep a long Complete alive.
        blank = "\n\n" if self.action == "complete_error" else ""
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n{blank}'
            f"<Error><Code>{code}</Code><Message>{message}</Message>"
            f"<RequestId>0000000000000000</RequestId></Error>"
        ).encode()
        reason = http.server.BaseHTTPRequestHandler.responses.get(status, ("Injected",))[0]
        lines = [
            f"HTTP/1.1 {status} {reason}",
            "Content-Type: application/xml",
            f"Content-Length: {len(body)}",
        ]
        if self.rule and self.option("retry_after") is not None:
            lines.append(f"Retry-After: {self.option('retry_after')}")
        if close:
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        if self.request.method == "HEAD":
            body = b""
        self.counts.status(self.entry, status)
        self.counts.sent(self.entry, len(body))
        self.client.sendall(head + body)

    def drain(self):
        """Takes the rest of the request, so that the answer finds a client that listens."""
        for piece, is_content in pieces(self.stream, self.request.body_length()):
            self.counts.received(self.entry, len(piece) if is_content else 0)

    def hang(self):
        self.client.settimeout(self.option("seconds"))
        self.drain()
        while self.stream.read(PIECE):
            pass
        return False

    # What the server answers.

    def forward(self):
        self.upstream.sendall(self.request.raw)
        # Beside the answer, which may come before the body is through: a refusal does.
        body = threading.Thread(target=self.send_body, daemon=True)
        body.start()
        try:
            keep = self.relay_answer()
        except (OSError, Closed):
            # Neither side can be waited for any more.
            break_off(self.upstream, self.client)
            body.join()
            return False
        if not keep or not self.body_wanted:
            # Tells the client so; one that was refused before it sent its body waits for that.
            end_sending(self.client)
        body.join()
        if not self.body_done or not keep:
            linger(self.client)
            return False
        return True

    def send_body(self):
        left = self.option("after", 0) if self.action == "cut" else None
        try:
            for piece, is_content in pieces(self.stream, self.request.body_length(), self.piece_size(left)):
                if left is not None and is_content:
                    if left == 0:
                        break
                    piece = piece[:left]
                    left -= len(piece)
                self.wait()
                self.counts.received(self.entry, len(piece) if is_content else 0)
                self.upstream.sendall(piece)
                if left == 0:
                    break
            self.body_done = True
            if self.action == "cut":
                break_off(self.upstream, self.client)
        except (Closed, ValueError):
            # The client has gone: the server shall learn of it.
            break_off(self.upstream)
        except OSError:
            # The server has gone; what it said before may still be on its way to the client.
            pass

    def relay_answer(self):
        """Returns whether the connection can take another request after this answer."""
        answers = Stream(self.upstream)
        while True:
            raw = answers.head()
            if not raw:
                raise Closed("the server has closed without an answer")
            answer = Answer(raw)
            if answer.is_final():
                break
            # Without it the client would wait for a second before it sends its body.
            self.body_wanted = True
            self.client.sendall(raw)
        length = answer.body_length(self.request.method)
        if self.action == "cut":
            return False
        if self.action == "drop_reply":
            # The whole of it: then the server has done all that it does for this request.
            for _ in pieces(answers, length):
                pass
            raise Closed("as the rule wants")

        self.counts.status(self.entry, answer.status)
        self.client.sendall(raw)
        left = self.option("after", 0) if self.action == "cut_response" else None
        position = 0
        if left != 0:
            for piece, is_content in pieces(answers, length, self.piece_size(left)):
                if is_content:
                    if left is not None:
                        piece = piece[:left]
                        left -= len(piece)
                    if self.action == "corrupt":
                        piece = flipped(piece, self.option("offset", 0) - position)
                    position += len(piece)
                    self.counts.sent(self.entry, len(piece))
                self.wait()
                self.client.sendall(piece)
                if left == 0:
                    break
        if self.action == "cut_response":
            raise Closed("as the rule wants")
        return length is not None and not answer.closes() and not self.request.closes()

    def piece_size(self, left):
        if self.action == "slow":
            return max(1, self.option("chunk", 65536))
        return PIECE if left is None else max(1, min(PIECE, left))

    def wait(self):
        if self.action == "slow":
            time.sleep(self.option("delay", 0.1))


def flipped(piece, index):
    if not 0 <= index < len(piece):
        return piece
    return piece[:index] + bytes([piece[index] ^ 1]) + piece[index + 1 :]


def break_off(*sockets):
    """Wakes whoever reads from them, or writes to them, as well."""
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def end_sending(sock):
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def linger(sock):
    """Closed at once with bytes unread, a connection takes the answer along that it just sent."""
    end_sending(sock)
    try:
        deadline = time.monotonic() + 2
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(PIECE):
                return
    except OSError:
        pass


class Proxy:
    def __init__(self, upstream, port):
        self.upstream = upstream
        self.rules = Rules()
        self.counts = Counts()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = self.listener.getsockname()[1]

    def serve(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.converse, args=(client,), daemon=True).start()

    def converse(self, client):
        self.counts.connected()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = Stream(client)
        try:
            while raw := stream.head():
                request = Request(raw)
                rule = self.rules.take(request)
                entry = self.counts.begin(request, rule)
                try:
                    if not Exchange(self, stream, request, rule, entry).run():
                        return
                finally:
                    self.counts.end()
        except (OSError, Closed, ValueError):
            # Clients come and go; what they did shows in the counts.
            pass
        finally:
            client.close()


# --- control -------------------------------------------------------------------------------------


def control_server(proxy):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status, document):
            body = json.dumps(document, indent=1).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            sources = {
                "/__faults": proxy.rules.as_json,
                "/__counts": proxy.counts.as_json,
                "/__requests": proxy.counts.latest_as_json,
            }
            if self.path in sources:
                self.reply(200, sources[self.path]())
            else:
                self.reply(404, {"error": "known: " + ", ".join(sources)})

        def do_PUT(self):
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/__faults":
                self.reply(404, {"error": "known: /__faults"})
                return
            try:
                proxy.rules.replace(text)
            except (ValueError, re.error) as error:
                self.reply(400, {"error": str(error)})
                return
            self.reply(200, proxy.rules.as_json())

        def do_DELETE(self):
            if self.path == "/__faults":
                proxy.rules.replace("[]")
            elif self.path == "/__counts":
                proxy.counts.reset()
            else:
                self.reply(404, {"error": "known: /__faults, /__counts"})
                return
            self.reply(200, {})

        def log_message(self, *_):
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def main():
    parser = argparse.ArgumentParser(description="A proxy that misbehaves on demand; see its head.")
    parser.add_argument("--upstream", required=True, help="http://HOST:PORT of the real server")
    parser.add_argument("--port", type=int, default=0, help="where to listen; 0: any free port")
    parser.add_argument("--control", help="a file with rules to begin with")
    parser.add_argument("--with-parent", action="store_true", help="end when the parent does")
    options = parser.parse_args()
    upstream = urllib.parse.urlsplit(options.upstream)
    if upstream.scheme != "http" or not upstream.hostname:
        parser.error("--upstream is not http://HOST:PORT")
    parent = os.getppid()

    # Blocked before there are threads: all of them inherit it, and sigwait gets what comes.
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    proxy = Proxy((upstream.hostname, upstream.port or 80), options.port)

    def read_rules():
        if options.control and os.path.exists(options.control):
            with open(options.control, encoding="utf-8") as file:
                proxy.rules.replace(file.read())

    read_rules()
    control = control_server(proxy)
    threading.Thread(target=proxy.serve, daemon=True).start()
    threading.Thread(target=control.serve_forever, daemon=True).start()
    print(
        f"port={proxy.port}",
        f"control_port={control.server_port}",
        f"endpoint=http://127.0.0.1:{proxy.port}",
        f"control=http://127.0.0.1:{control.server_port}",
        sep="\n",
        flush=True,
    )

    while not options.with_parent or os.getppid() == parent:
        got = signal.sigtimedwait(signals, 0.5)
        if got is None:
            continue
        if got.si_signo != signal.SIGHUP:
            break
        try:
            read_rules()
        except (OSError, ValueError, re.error) as error:
            print(f"faults: {options.control}: {error}", file=sys.stderr, flush=True)
    # Not sys.exit: connections that hang are no reason to stay.
    os._exit(0)


if __name__ == "__main__":
    main()
