"""Loads a service on this machine, and prints the tables of docs/serving.md.

    python scripts/load.py BUNDLE --out FOLDER

Starts ``python -m atspeed serve`` on a free loopback port, and measures from this process, over keep-alive connections:
clients that each wait for their answer (closed loop), then requests that arrive at random times whether or not others
have been answered (Poisson), at shares of the throughput of 32 clients. Beside it, what the recommender
answers without HTTP, in batches of the service's size. Each part lasts ``--seconds``; all take about 4 minutes.
"""

import argparse
import asyncio
import atexit
import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from atspeed.provenance import provenance

CLIENTS = (1, 8, 32, 128)
FULL = "32 clients"  # two batches: one is decoded, one gathers
SHARES = (0.5, 0.8, 1.1)
MAX_BATCH = 16
MOST_CONNECTIONS = 600
WARM_UP = 1.0  # seconds of each part that do not count
MOST_SECONDS = 60.0  # for the last answers of a part; a service that takes longer hangs


@dataclass
class Outcome:
    """What a part of the measurement saw."""

    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    errors: int = 0

    def add(self, status: int, seconds: float) -> None:
        """Count a response."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.latencies.append(seconds)


class Connection:
    """A keep-alive connection that sends prepared requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def post(self, request: bytes) -> int:
        """Return the status of a request."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        await self.reader.readexactly(length)
        return int(head[9:12])

    def close(self) -> None:
        """Close it; the next request opens another one."""
        if self.writer is not None:
            self.writer.close()
        self.writer = None


def histories_of(bundle: Path, count: int = 2000) -> list[list[str]]:
    """Random histories of 1 to 20 items, the same for every part."""
    names = pq.read_table(bundle / "items.parquet", columns=["item"])["item"].to_pylist()
    rng = random.Random(0)
    return [rng.choices(names, k=rng.randint(1, 20)) for _ in range(count)]


def requests_of(histories: list[list[str]]) -> list[bytes]:
    """The same as HTTP requests."""
    bodies = [json.dumps({"history": history}).encode() for history in histories]
    head = "POST /v1/recommendations HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


async def closed_loop(port: int, requests: list[bytes], clients: int, seconds: float) -> Outcome:
    """Clients that each send a request when the last one is answered."""
    outcome, begin = Outcome(), time.perf_counter() + WARM_UP
    end = begin + seconds

    async def client(number: int) -> None:
        connection, row = Connection(port), number * 97
        while (start := time.perf_counter()) < end:
            row = (row + 1) % len(requests)
            try:
                status = await connection.post(requests[row])
            except (OSError, asyncio.IncompleteReadError):
                outcome.errors += 1
                connection.close()
                continue
            if begin <= (now := time.perf_counter()) <= end:
                outcome.add(status, now - start)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return outcome


async def poisson(port: int, requests: list[bytes], rate: float, seconds: float) -> Outcome:
    """Requests that arrive at random times; the latency counts from the time of arrival."""
    outcome, rng = Outcome(), random.Random(1)
    begin = time.perf_counter() + WARM_UP
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def ask(request: bytes, arrival: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        reused = connection.writer is not None
        try:
            try:
                status = await connection.post(request)
            except (OSError, asyncio.IncompleteReadError):
                if not reused:  # the service closes connections that were idle for long, as every client expects
                    raise
                connection.close()
                status = await connection.post(request)
        except (OSError, asyncio.IncompleteReadError):
            outcome.errors += 1
            connection.close()
            return
        idle.append(connection)
        if arrival >= begin:
            outcome.add(status, time.perf_counter() - arrival)

    arrival = time.perf_counter()
    for number in range(int(rate * (WARM_UP + seconds))):
        arrival += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, arrival - time.perf_counter()))
        if len(tasks) >= MOST_CONNECTIONS:
            outcome.errors += 1
            continue
        task = asyncio.create_task(ask(requests[number % len(requests)], arrival))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return outcome


class Server:
    """The service as a process."""

    def __init__(self, bundle: Path, log: Path, *options: str) -> None:
        self.command = ["serve", "--bundle", str(bundle), "--port", "0", "--max_batch", str(MAX_BATCH), *options]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "atspeed", *self.command], stdout=output, stderr=subprocess.STDOUT
            )
        atexit.register(self.process.kill)  # whatever happens here
        while not (found := re.search(r"http://127.0.0.1:(\d+)", log.read_text())):
            if self.process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)
        self.port = int(found[1])
        while "ready after" not in log.read_text():
            if self.process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def batches(self) -> tuple[float, float]:
        """Requests and batches so far."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        found = [re.search(rf"atspeed_batch_size_{name} (\S+)", text) for name in ("sum", "count")]
        requests, batches = (float(each[1]) if each else 0.0 for each in found)
        return requests, batches

    def end(self) -> int:
        """Send SIGTERM, and return the exit code."""
        self.process.terminate()
        return self.process.wait(60)


async def measure(server: Server, name: str, load: Any, seconds: float) -> dict[str, Any]:
    """Return a row."""
    before, start = await server.batches(), time.perf_counter()
    server_cpu, client_cpu = server.cpu_seconds(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    async with asyncio.timeout(seconds + MOST_SECONDS):
        outcome: Outcome = await load
    wall = time.perf_counter() - start
    after = await server.batches()
    cores = os.cpu_count() or 1
    total = sum(outcome.statuses.values())
    p50, p95, p99 = np.percentile(outcome.latencies, (50, 95, 99)) * 1000 if outcome.latencies else (0, 0, 0)
    return {
        "load": name,
        "answered_per_s": len(outcome.latencies) / seconds,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "share_429": outcome.statuses.get(429, 0) / max(1, total),
        "late": outcome.statuses.get(504, 0),
        "errors": sum(n for status, n in outcome.statuses.items() if status not in (200, 429, 504)) + outcome.errors,
        "batch_size": (after[0] - before[0]) / max(1.0, after[1] - before[1]),
        "server_cpu": (server.cpu_seconds() - server_cpu) / wall / cores,
        "client_cpu": (sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - client_cpu) / wall / cores,
    }


def measure_bare(bundle: Path, seconds: float) -> float:
    """Return the requests per second of the recommender in batches, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, str(bundle), "--bare", str(seconds)], capture_output=True, check=True
    )
    return float(done.stdout)


def bare(bundle: Path, seconds: float) -> float:
    """Return the requests per second of the recommender in this process."""
    from atspeed import Recommender

    recommender = Recommender.load(bundle)
    requests = [recommender.request(history) for history in histories_of(bundle)]
    batches = [requests[start : start + MAX_BATCH] for start in range(0, len(requests), MAX_BATCH)]
    for batch in batches[:5]:
        recommender.answer(batch)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        count += len(recommender.answer(batches[count // MAX_BATCH % len(batches)]))
    return count / elapsed


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as Markdown."""
    lines = [
        "| load | answers/s | p50 ms | p95 ms | p99 ms | 429 | 504 | errors | batch | server's CPU | client's CPU |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['load']} | {row['answered_per_s']:.0f} | {row['p50_ms']:.0f} | {row['p95_ms']:.0f} | "
            f"{row['p99_ms']:.0f} | {row['share_429']:.0%} | {row['late']} | {row['errors']} | "
            f"{row['batch_size']:.1f} | {row['server_cpu']:.0%} | {row['client_cpu']:.0%} |"
        )
    return "\n".join(lines)


async def run(bundle: Path, out: Path, seconds: float) -> None:
    """Measure everything, print the tables and write ``load.json``."""
    out.mkdir(parents=True, exist_ok=True)
    requests = requests_of(histories_of(bundle))
    bare_before = measure_bare(bundle, seconds)
    server = Server(bundle, out / "closed.log", "--max_queue", "256", "--timeout_ms", "30000")
    closed = [
        await measure(server, f"{clients} clients", closed_loop(server.port, requests, clients, seconds), seconds)
        for clients in CLIENTS
    ]
    code = server.end()
    server = Server(bundle, out / "poisson.log")
    capacity = next(row["answered_per_s"] for row in closed if row["load"] == FULL)
    opened = [
        await measure(
            server,
            f"{share:.0%} of {capacity:.0f}/s",
            poisson(server.port, requests, share * capacity, 2 * seconds),
            2 * seconds,
        )
        for share in SHARES
    ]
    code |= server.end()
    bare_rate = (bare_before + measure_bare(bundle, seconds)) / 2
    result = {
        "provenance": provenance(),
        "bare_per_s": bare_rate,
        "overhead": 1 - capacity / bare_rate,
        "closed_loop": closed,
        "poisson": opened,
        "exit_codes": code,
    }
    (out / "load.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"closed loop (--max_queue 256, --timeout_ms 30000)\n\n{table(closed)}\n")
    print(f"Poisson (--max_queue 16)\n\n{table(opened)}\n")
    share = capacity / bare_rate
    print(f"without HTTP, batches of {MAX_BATCH}: {bare_rate:.0f}/s; the service reaches {share:.1%} with {FULL}")
    print(f"exit codes of the service: {code}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/load"), help="gets load.json and the service's logs")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each part")
    parser.add_argument("--bare", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(bare(options.bundle, options.bare))
    else:
        asyncio.run(run(options.bundle, options.out, options.seconds))
