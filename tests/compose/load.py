"""Steady load on one address: keep-alive connections, requests at a fixed rate, and what became of each."""

import asyncio
import dataclasses
import threading
import time

CONNECTIONS = 48
ANSWER_TIMEOUT_S = 40.0


@dataclasses.dataclass
class Sent:
    """One request: when it was sent (monotonic), how long it took, and its status; 0 when the connection broke."""

    kind: str
    at: float
    took: float
    status: int
    body: bytes = b""


class Connection:
    def __init__(self, host, port):
        self.address = (host, port)
        self.streams = None

    async def ask(self, head_and_body):
        """Sends a request once. A connection that the server closed while it was idle is opened again first."""
        if self.streams is None or self.streams[0].at_eof():
            self.close()
            self.streams = await asyncio.open_connection(*self.address)
        reader, writer = self.streams
        writer.write(head_and_body)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:-2])
        body = b""
        if b"content-length" in fields:
            body = await reader.readexactly(int(fields[b"content-length"]))
        elif b"transfer-encoding" in fields:
            body = await chunks(reader)
        if b"close" in fields.get(b"connection", b""):
            self.close()
        return status, body

    def close(self):
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def chunks(reader):
    body = b""
    while True:
        size = int(await reader.readline(), 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            return body


def request(method, path, token=None, body=None):
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    elif method == "POST":
        lines.append("Content-Length: 0")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


class Load:
    """Runs in a thread of its own from `start` to `stop`. `mix` is a list of (kind, share, bytes or callable)."""

    def __init__(self, host, port, rate, mix):
        self.host, self.port, self.rate, self.mix = host, port, rate, mix
        self.sent = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.thread.join()

    async def run(self):
        queue = asyncio.Queue()
        workers = [asyncio.create_task(self.work(queue)) for _ in range(CONNECTIONS)]
        turns = [kind for kind in self.mix for _ in range(kind[1])]
        began, number = time.monotonic(), 0
        while not self.ending.is_set():
            due = began + number / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            queue.put_nowait(turns[number % len(turns)])
            number += 1
        for _ in workers:
            queue.put_nowait(None)
        await asyncio.gather(*workers)

    async def work(self, queue):
        connection = Connection(self.host, self.port)
        while (kind := await queue.get()) is not None:
            name, _, made = kind
            at = time.monotonic()
            try:
                ask = connection.ask(made() if callable(made) else made)
                status, body = await asyncio.wait_for(ask, ANSWER_TIMEOUT_S)
            except (OSError, EOFError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError):
                status, body = 0, b""
                connection.close()
            keep = body if status != 200 else b""
            self.sent.append(Sent(name, at, time.monotonic() - at, status, keep))
        connection.close()


def summary(sent, expected=200):
    """The figures of a run in one line."""
    failed = [one for one in sent if one.status != expected]
    times = sorted(one.took for one in sent)
    if not times:
        return "nothing was sent"
    span = max(one.at for one in sent) - min(one.at for one in sent) or 1.0
    statuses = sorted({one.status for one in failed})
    quantile = lambda part: 1000 * times[min(len(times) - 1, int(part * len(times)))]
    return (
        f"{len(sent)} requests, {len(sent) / span:.0f}/s, {len(failed)} failed {statuses or ''}"
        f" p50 {quantile(0.5):.1f} ms, p99 {quantile(0.99):.1f} ms, max {1000 * times[-1]:.0f} ms"
    )
