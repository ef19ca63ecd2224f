"""What the stand-ins for remote services share: HTTP/1.1 with keep-alive, a thread a connection,
rules, settings, counts, and the control URL. It runs no program; openai.py and pinecone.py do.

A stand-in prints port=, control_port=, endpoint= and control= once it listens, and runs until
SIGTERM; with --with-parent also until the process that started it ends. --settings takes a JSON
object to begin with.

The control URL:

    PUT /__faults      replaces the rules by those of a JSON list; GET reads, DELETE clears them
    PUT /__settings    changes the settings named in a JSON object; GET reads all
    GET /__counts      what has passed since the start or the last DELETE /__counts
    GET /__requests    the latest requests in the order of their arrival, one object each
    and what the stand-in adds

A rule is an object as in faults.py: the first one that matches a request and is not used up takes
it, `times` (1; 0 for ever) and `skip` as there. What every stand-in knows of `match`: method, kind,
path and query (regular expressions), body (a substring). And of actions:

    status         answers `status` (500) with the service's own kind of body: `message`, `code`,
                   `type`; or with `body` as it is. `headers`: an object of more headers;
                   `retry_after` (text or number) and `retry_after_ms` are two of them by name
    cut            closes the connection without an answer, and without having done anything
    drop_reply     does what it was asked to, then closes without an answer
    cut_response   closes after `after` bytes of the answer's body (half of it)
    hang           does nothing and never answers; closes after `seconds`, when given
    slow           answers after `delay` seconds (1) more

Settings of all: latency_ms, the time from a request's last byte to the answer's first; 0.
"""

import argparse
import http.server
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
import uuid

from faults import PIECE, Closed, Counts, Head, Rules, Stream, linger, pieces

BODY_LIMIT = 64 * 1024 * 1024

NUMBER = (int, float)

# action: its own members of a rule, with the type of each.
COMMON_ACTIONS = {
    "status": {
        "status": int,
        "code": (str, int),
        "type": str,
        "message": str,
        "body": str,
        "headers": dict,
        "retry_after": (str, int),
        "retry_after_ms": NUMBER,
    },
    "cut": {},
    "drop_reply": {},
    "cut_response": {"after": int},
    "hang": {"seconds": NUMBER},
    "slow": {"delay": NUMBER},
}
COMMON_MATCH = {"method": str, "kind": str, "path": str, "query": str, "body": str}


class Request(Head):
    """`document` is the body's JSON, None where it is none; `kind` is what the service calls it."""

    def __init__(self, raw):
        super().__init__(raw)
        if len(self.words) != 3:
            raise Closed("not a request")
        self.method, self.target, _ = self.words
        self.path, _, self.query = self.target.partition("?")
        self.arguments = urllib.parse.parse_qs(self.query, keep_blank_values=True)
        self.kind = "other"
        self.body = b""
        self.document = None

    def argument(self, name, default=None):
        return self.arguments.get(name, [default])[0]

    def parse(self, **options):
        try:
            self.document = json.loads(self.body, **options) if self.body else None
        except ValueError:
            self.document = None


class Reply:
    """`body` is bytes, or what becomes JSON."""

    def __init__(self, status, body, headers=None, content_type="application/json"):
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {"Content-Type": content_type, **(headers or {})}


class Rule:
    def __init__(self, given, actions, matches):
        if not isinstance(given, dict) or given.get("action") not in actions:
            raise ValueError("a rule is an object with an action of: " + ", ".join(actions))
        self.action = given["action"]
        known = {**actions[self.action], "action": str, "match": dict, "times": int, "skip": int}
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"{self.action} knows no {name}")
            if not isinstance(value, known[name]):
                raise ValueError(f"{name} has the wrong type")
        self.options = given
        self.match = given.get("match", {})
        for name, value in self.match.items():
            if name not in matches:
                raise ValueError(f"match knows no {name}")
            if not isinstance(value, matches[name]):
                raise ValueError(f"{name} has the wrong type")
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
            and ("body" not in match or match["body"] in request.body.decode("utf-8", "replace"))
            and request.service.matches(match, request)
        )

    def as_json(self):
        return {**self.options, "skip": self.skip, "left": self.left}


class RuleList(Rules):
    def __init__(self, actions, matches):
        super().__init__()
        self.actions = actions
        self.matches = matches

    def replace(self, text):
        given = json.loads(text)
        if not isinstance(given, list):
            raise ValueError("the rules are a list")
        rules = [Rule(one, self.actions, self.matches) for one in given]
        with self.lock:
            self.rules = rules


class Service:
    """What a stand-in has to say; the methods below are its own to fill in."""

    actions = {}
    matches_by = {}
    settings = {}

    def __init__(self):
        self.settings = {"latency_ms": 0, **type(self).settings}
        self.rules = RuleList({**COMMON_ACTIONS, **self.actions}, {**COMMON_MATCH, **self.matches_by})
        self.counts = Counts()

    def change_settings(self, text):
        given = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("the settings are an object")
        if unknown := set(given) - set(self.settings):
            raise ValueError("no setting: " + ", ".join(sorted(unknown)))
        # One assignment: a request that is under way sees the old ones or the new ones.
        self.settings = {**self.settings, **given}

    def reset_counts(self):
        self.counts.reset()

    def counts_as_json(self):
        return self.counts.as_json()

    # The stand-in's own.

    def understand(self, request):
        """Sets the request's kind, and what its rules ask for."""

    def matches(self, match, request):
        """Whether the members of a rule's match that are the stand-in's own fit."""
        return True

    def answer(self, request, rule):
        """Does what the request wants, under a rule of the stand-in's own or none."""
        raise NotImplementedError

    def error(self, status, message, code=None, kind=None):
        """A refusal in the service's own shape."""
        raise NotImplementedError

    def control_pages(self):
        """More pages of the control URL: path → function of the query's arguments."""
        return {}


class Server:
    def __init__(self, service, port):
        self.service = service
        self.counts = service.counts
        self.listener = socket.create_server(("127.0.0.1", port), backlog=512)
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
                if not self.exchange(client, stream, Request(raw)):
                    return
        except (OSError, Closed, ValueError):
            # Clients come and go; what they did shows in the counts.
            pass
        finally:
            client.close()

    def read_body(self, client, stream, request):
        if request.headers.get("expect", "").lower() == "100-continue":
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = request.length() or 0
        if length == "chunked":
            parts = []
            # The marks between the chunks come as pieces of their own.
            for piece, is_content in pieces(stream, length):
                if is_content:
                    parts.append(piece)
            return b"".join(parts)
        if length > BODY_LIMIT:
            raise Closed("too much")
        return b"".join(piece for piece, _ in pieces(stream, length))

    def exchange(self, client, stream, request):
        """One request and its answer. Returns whether the connection can go on."""
        service = self.service
        request.service = service
        request.body = self.read_body(client, stream, request)
        arrived = time.monotonic()
        service.understand(request)
        rule = service.rules.take(request)
        entry = self.counts.begin(request, rule)
        try:
            self.counts.received(entry, len(request.body))
            return self.respond(client, stream, request, rule, entry, arrived)
        finally:
            self.counts.end()

    def respond(self, client, stream, request, rule, entry, arrived):
        action = rule.action if rule else None
        if action == "cut":
            return False
        if action == "hang":
            client.settimeout(rule.get("seconds"))
            while stream.read(PIECE):
                pass
            return False
        if action == "status":
            reply = self.injected(rule)
        else:
            own = rule if action in self.service.actions else None
            reply = self.service.answer(request, own)
        wait = self.service.settings["latency_ms"] / 1000
        if action == "slow":
            wait += rule.get("delay", 1)
        if (wait := arrived + wait - time.monotonic()) > 0:
            time.sleep(wait)
        if action == "drop_reply":
            return False

        body = reply.body
        lines = [f"HTTP/1.1 {reply.status} {reason(reply.status)}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        lines += [f"Content-Length: {len(body)}", f"x-request-id: req_{uuid.uuid4().hex}"]
        if request.closes():
            lines.append("Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if action == "cut_response":
            body = body[: rule.get("after", len(body) // 2)]
        # Before the client can know of it.
        self.counts.status(entry, reply.status)
        self.counts.sent(entry, len(body))
        client.sendall(head + body)
        if action == "cut_response":
            linger(client)
            return False
        return not request.closes()

    def injected(self, rule):
        reply = self.service.error(
            rule.get("status", 500),
            rule.get("message", "Injected by the test."),
            rule.get("code"),
            rule.get("type"),
        )
        if (body := rule.get("body")) is not None:
            reply.body = body.encode()
        reply.headers.update(rule.get("headers", {}))
        reply.headers.update(retry_headers(rule))
        return reply


def retry_headers(rule):
    headers = {}
    if (after := rule.get("retry_after")) is not None:
        headers["Retry-After"] = after
    if (after := rule.get("retry_after_ms")) is not None:
        headers["retry-after-ms"] = after
    return headers


def reason(status):
    return http.server.BaseHTTPRequestHandler.responses.get(status, ("Injected",))[0]


# --- control -------------------------------------------------------------------------------------


def control_server(service):
    readable = {
        "/__faults": lambda _: service.rules.as_json(),
        "/__settings": lambda _: service.settings,
        "/__counts": lambda _: service.counts_as_json(),
        "/__requests": lambda _: service.counts.latest_as_json(),
        **service.control_pages(),
    }
    writable = {"/__faults": service.rules.replace, "/__settings": service.change_settings}
    clearable = {"/__faults": lambda: service.rules.replace("[]"), "/__counts": service.reset_counts}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status, document):
            body = json.dumps(document).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def find(self, pages):
            path, _, query = self.path.partition("?")
            if path not in pages:
                self.reply(404, {"error": "known: " + ", ".join(pages)})
                return None, None
            arguments = urllib.parse.parse_qs(query, keep_blank_values=True)
            return pages[path], {name: values[0] for name, values in arguments.items()}

        def do_GET(self):
            page, arguments = self.find(readable)
            if page:
                self.reply(200, page(arguments))

        def do_PUT(self):
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            page, _ = self.find(writable)
            if not page:
                return
            try:
                page(text)
            except (ValueError, re.error) as error:
                self.reply(400, {"error": str(error)})
                return
            self.reply(200, readable[self.path](None))

        def do_DELETE(self):
            page, _ = self.find(clearable)
            if page:
                page()
                self.reply(200, {})

        def log_message(self, *_):
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def run(service, description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0, help="where to listen; 0: any free port")
    parser.add_argument("--settings", help="a JSON object of settings to begin with")
    parser.add_argument("--with-parent", action="store_true", help="end when the parent does")
    options = parser.parse_args()
    if options.settings:
        try:
            service.change_settings(options.settings)
        except ValueError as error:
            parser.error(str(error))
    parent = os.getppid()

    # Blocked before there are threads: all of them inherit it, and sigtimedwait gets what comes.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    server = Server(service, options.port)
    control = control_server(service)
    threading.Thread(target=server.serve, daemon=True).start()
    threading.Thread(target=control.serve_forever, daemon=True).start()
    print(
        f"port={server.port}",
        f"control_port={control.server_port}",
        f"endpoint=http://127.0.0.1:{server.port}",
        f"control=http://127.0.0.1:{control.server_port}",
        sep="\n",
        flush=True,
    )
    while not options.with_parent or os.getppid() == parent:
        if signal.sigtimedwait(signals, 0.5) is not None:
            break
    # Not sys.exit: connections that hang are no reason to stay.
    os._exit(0)
