#!/usr/bin/env python3
"""The wire to a service, which can be cut: a TCP proxy that knows nothing of HTTP.

    wire.py --upstream http://127.0.0.1:PORT [--with-parent]

Prints port=, control_port=, endpoint= and control= (the URLs) once it listens, and runs until SIGTERM;
with --with-parent also until the process that started it ends. (For what a server does wrong see
faults.py.)

The control URL:

    PUT /__wire      a JSON object, see below; what it names is set, connections that stand still are reset
    GET /__wire      how the wire is, and what has passed: {"mode", "connections", "request", "response",
                     "cuts"}; request and response are bytes

    {"mode": "pass"}     bytes pass
    {"mode": "refuse"}   nobody listens: connections are refused, those that are there are reset
    {"mode": "silent"}   connections are accepted and nothing passes any more, as when packets are lost
    {"mode": "reset"}    connections are accepted and reset at once
    {"mode": "pass", "cut": {"direction": "request" or "response", "after": BYTES, "mode": MODE,
     "seconds": S}}      after so many more bytes in that direction, in all connections together, the
                         wire is in that mode; for S seconds, or until it is told otherwise
"""

import argparse
import asyncio
import contextlib
import http.server
import json
import os
import signal
import socket
import struct
import threading
import urllib.parse

PIECE = 64 * 1024
MODES = ("pass", "refuse", "silent", "reset")


def reset(writer):
    """Closes with an RST: the other side learns that something went wrong."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Wire:
    def __init__(self, host, port):
        self.upstream = (host, port)
        self.mode = "pass"
        self.cut = None
        self.server = None
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self.passed = {"request": 0, "response": 0}
        self.live = set()  # the writers of both sides of each connection
        self.still = set()  # those that stand still
        self.heal = None  # a timer

    async def listen(self):
        if self.server is None:
            self.server = await asyncio.start_server(
                self.converse, "127.0.0.1", self.port, backlog=128, reuse_address=True
            )
            self.port = self.server.sockets[0].getsockname()[1]

    async def set(self, given):
        mode = given.get("mode", self.mode)
        cut = given.get("cut")
        if mode not in MODES or set(given) - {"mode", "cut"}:
            raise ValueError("a mode of: " + ", ".join(MODES))
        if cut and (cut["mode"] not in MODES or cut["direction"] not in self.passed):
            raise ValueError("a cut has a direction, after, and a mode")
        if self.heal is not None:
            self.heal.cancel()
            self.heal = None
        await self.change(mode)
        self.cut = dict(cut) if cut else None
        return self.state()

    def state(self):
        return {
            "mode": self.mode,
            "connections": self.connections,
            "cuts": self.cuts,
            **self.passed,
        }

    async def change(self, mode):
        self.mode = mode
        # A wire that is mended brings the news that a connection is long gone.
        for writer in list(self.still):
            reset(writer)
        self.still.clear()
        if mode in ("refuse", "reset"):
            for writer in list(self.live):
                reset(writer)
            self.live.clear()
        elif mode == "silent":
            self.still |= self.live
        if mode == "refuse":
            if self.server is not None:
                self.server.close()
                self.server = None
        else:
            await self.listen()

    async def trip(self):
        cut, self.cut = self.cut, None
        self.cuts += 1
        if "seconds" in cut:
            loop = asyncio.get_running_loop()
            self.heal = loop.call_later(
                cut["seconds"], lambda: asyncio.ensure_future(self.change("pass"))
            )
        await self.change(cut["mode"])

    async def converse(self, reader, writer):
        self.connections += 1
        if self.mode in ("refuse", "reset"):
            reset(writer)
            return
        self.live.add(writer)
        if self.mode == "silent":
            self.still.add(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        except OSError:
            reset(writer)
            return
        self.live.add(up_writer)
        if self.mode == "silent":
            self.still |= {writer, up_writer}
            return
        try:
            await asyncio.gather(
                self.pump("request", reader, up_writer), self.pump("response", up_reader, writer)
            )
        except (OSError, ConnectionError):
            pass
        finally:
            if writer not in self.still:
                for one in (writer, up_writer):
                    self.live.discard(one)
                    one.transport.abort()

    async def pump(self, direction, reader, writer):
        while True:
            piece = await reader.read(PIECE)
            if writer in self.still:
                return
            if not piece:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write_eof()
                return
            cut = self.cut if self.cut and self.cut["direction"] == direction else None
            if cut:
                left = cut["after"]
                cut["after"] = left - len(piece)
                if len(piece) >= left:
                    piece = piece[:left]
            writer.write(piece)
            self.passed[direction] += len(piece)
            await writer.drain()
            if cut and cut["after"] <= 0 and cut is self.cut:
                await self.trip()
            if writer in self.still:
                return


def control_server(wire, loop):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status, document):
            body = json.dumps(document).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.reply(200, wire.state())

        def do_PUT(self):
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                done = asyncio.run_coroutine_threadsafe(wire.set(json.loads(text)), loop)
                self.reply(200, done.result())
            except (ValueError, KeyError, TypeError) as error:
                self.reply(400, {"error": str(error)})

        def log_message(self, *_):
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


async def run(upstream, with_parent):
    loop = asyncio.get_running_loop()
    parent = os.getppid()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    wire = Wire(upstream.hostname, upstream.port or 80)
    await wire.listen()
    control = control_server(wire, loop)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    print(
        f"port={wire.port}",
        f"control_port={control.server_port}",
        f"endpoint=http://127.0.0.1:{wire.port}",
        f"control=http://127.0.0.1:{control.server_port}",
        sep="\n",
        flush=True,
    )
    while not ended.is_set() and (not with_parent or os.getppid() == parent):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), 0.5)
    # Not sys.exit: connections that stand still are no reason to stay.
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description="A wire that can be cut; see its head.")
    parser.add_argument("--upstream", required=True, help="http://HOST:PORT of the real server")
    parser.add_argument("--with-parent", action="store_true", help="end when the parent does")
    options = parser.parse_args()
    upstream = urllib.parse.urlsplit(options.upstream)
    if upstream.scheme != "http" or not upstream.hostname:
        parser.error("--upstream is not http://HOST:PORT")
    asyncio.run(run(upstream, options.with_parent))


if __name__ == "__main__":
    main()
