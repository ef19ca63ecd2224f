#!/usr/bin/env python3
"""A service that means harm: what it answers depends on the first part of the path.

    hostile.py --log FILE [--target URL] [--certificate FILE --key FILE] [--with-parent]

    /redirect-CODE/…   CODE, with the Location --target
    /endless/…         200, and a body without end
    /headers/…         200, and headers without end
    /error/…           400, whose message has line breaks, escapes and a forged line of a log
    /bytes/…           200, with bytes that are neither JSON nor XML nor UTF-8
    anything else      307 to --target: so does a service that is asked at its root

It prints port=, endpoint= and control= (the same) once it listens. Each request that arrives becomes
a line of FILE: method, path, and what it brought as Authorization, api-key or Api-Key. How many bytes
of an endless answer were taken is a line as well: "sent N".
"""

import argparse
import http.server
import json
import os
import signal
import ssl
import sys
import threading

# No __pycache__ in the checkout.
sys.dont_write_bytecode = True

FORGED = '\n2001-01-01 00:00:00.000 UTC [1] LOG:  {"timestamp":"2001-01-01T00:00:00.000Z","message":"forged"}'
PIECE = b"x" * 65536
# What nobody may take: a client that never stops ends here.
MOST = 2 << 30


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def note(self, line):
        with self.server.lock, open(self.server.options.log, "a", encoding="utf-8") as log:
            log.write(line + "\n")

    def answer(self):
        secret = self.headers.get("Authorization") or self.headers.get("api-key") or "-"
        self.note(f"{self.command} {self.path} {secret}")
        self.close_connection = True
        length = int(self.headers.get("Content-Length") or 0)
        if length:
            self.rfile.read(length)
        mode = self.path.split("/")[1]
        if mode == "endless":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.pour(PIECE)
        elif mode == "headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            self.pour(b"X-More: " + b"y" * 8000 + b"\r\n")
        elif mode == "error":
            message = "no\r\n\x1b[31m\0" + FORGED
            self.whole(400, json.dumps({"error": {"message": message, "type": message, "code": message}}).encode())
        elif mode == "bytes":
            self.whole(200, bytes(range(256)) * 4)
        else:
            code = int(mode.split("-")[1]) if mode.startswith("redirect-") else 307
            self.send_response(code)
            self.send_header("Location", self.server.options.target)
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = answer

    def whole(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def pour(self, piece):
        sent = 0
        try:
            while sent < MOST:
                self.wfile.write(piece)
                sent += len(piece)
        except OSError:
            pass
        self.note(f"sent {sent}")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a handshake that the client broke off


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--target", default="http://127.0.0.1:1/")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--with-parent", action="store_true")
    options = parser.parse_args()
    if options.with_parent:
        # PR_SET_PDEATHSIG
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        if os.getppid() == 1:
            return
    server = Server(("127.0.0.1", 0), Handler)
    server.options = options
    server.lock = threading.Lock()
    scheme = "http"
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
        # Not in the thread that accepts: one handshake must not hold up the next.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    port = server.server_address[1]
    host = "localhost" if options.certificate else "127.0.0.1"
    print(f"port={port}\nendpoint={scheme}://{host}:{port}\ncontrol={scheme}://{host}:{port}", flush=True)
    server.serve_forever()


main()
