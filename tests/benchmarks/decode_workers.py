"""Our decoding processes beside torch's DataLoader and loky: speed, memory, and what becomes of them at a death.

Ours start only for a preprocess that is not made for threads, as the one measured here.

    python tests/benchmarks/decode_workers.py [--images 600] [--workers 2] [--rounds 3] [--only KIND ...]

Each kind decodes the same JPEGs of 500 x 375 in pieces of 32, in a fresh process each round, in turns. `first` is the
seconds until the first piece, without the imports of the parent; `images/s` counts from then on. `MiB` is what a
worker holds for itself, shared pages by halves (PSS). Then a worker is killed, the whole group is interrupted (Ctrl-C:
lines that workers print), and the parent is killed (seconds until the last worker is gone, at most 30).
loky is the one that joblib brings along.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pillow_resize import Pillow

from rag_clip.images.decoding import Decoded, DecodePool, decode_items

KINDS = ("ours", "DataLoader spawn", "DataLoader fork", "loky")
TRANSFORM = Pillow(224)
PIECE = 32
PATIENCE = 90.0
Decoder = Callable[[Sequence[list[bytes]]], Iterator[Decoded]]


class Pieces:
    """A data set of torch's: each item a piece, decoded."""

    def __init__(self, pieces: Sequence[list[bytes]]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, place: int) -> Decoded:
        return decode_items(self.pieces[place], TRANSFORM)


@contextmanager
def ours(workers: int) -> Iterator[Decoder]:
    """Yield a decoder by DecodePool, two pieces ahead for each worker as DataLoader has it."""
    with DecodePool(TRANSFORM, workers=workers) as pool:
        yield lambda pieces: ahead([partial(pool.submit, each) for each in pieces], workers)


@contextmanager
def loky(workers: int) -> Iterator[Decoder]:
    """Yield a decoder by loky's executor."""
    executor = importlib.import_module("joblib.externals.loky").ProcessPoolExecutor(workers)

    def submit(piece: list[bytes]) -> Callable[[], Decoded]:
        result: Callable[[], Decoded] = executor.submit(decode_items, piece, TRANSFORM).result
        return result

    try:
        yield lambda pieces: ahead([partial(submit, each) for each in pieces], workers)
    finally:
        executor.shutdown(kill_workers=True)


@contextmanager
def loader(workers: int, start: str) -> Iterator[Decoder]:
    """Yield a decoder by torch's DataLoader."""
    from torch.utils.data import DataLoader

    def decode(pieces: Sequence[list[bytes]]) -> Iterator[Decoded]:
        data: Any = Pieces(pieces)
        yield from DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=start)

    yield decode


def ahead(submits: Sequence[Callable[[], Callable[[], Decoded]]], workers: int) -> Iterator[Decoded]:
    """Yield results in order, keeping two pieces a worker under way."""
    waiting: list[Callable[[], Decoded]] = []
    for submit in submits:
        waiting.append(submit())
        if len(waiting) > 2 * workers:
            yield waiting.pop(0)()
    yield from (wait() for wait in waiting)


def opened(kind: str, workers: int) -> Any:
    """Return the context manager of a kind."""
    if kind.startswith("DataLoader"):
        return loader(workers, kind.split()[1])
    return {"ours": ours, "loky": loky}[kind](workers)


def pictures(count: int) -> list[list[bytes]]:
    """Return JPEGs in pieces."""
    noise = np.random.default_rng(0)
    images = []
    for _ in range(64):
        stream = io.BytesIO()
        coarse = Image.fromarray(noise.integers(0, 256, (12, 16, 3), np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        images.append(stream.getvalue())
    rows = [images[row % 64] for row in range(count)]
    return [rows[start : start + PIECE] for start in range(0, count, PIECE)]


def helpers(process: int) -> list[int]:
    """Return the processes that a process started, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found + [each for child in found for each in helpers(child)]


def pss(process: int) -> float:
    """Return the memory of a process in MiB, pages that others share counted in parts."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def work(kind: str, count: int, workers: int, fate: str) -> None:
    """Decode in this process, and print what was measured; `fate` says what happens after the second piece."""
    import torch  # as a job has it

    torch.set_num_threads(1)
    pieces = pictures(count)
    start, first, held = time.perf_counter(), 0.0, 0.0
    with opened(kind, workers) as decode:
        for place, decoded in enumerate(decode(pieces)):
            assert decoded.errors == (None,) * len(decoded.errors)
            if place == 0:
                first = time.perf_counter()
            if place == 1:
                found = helpers(os.getpid())
                if fate == "measured":
                    held = max(pss(each) for each in found)
                elif fate == "worker killed":
                    os.kill(max(found, key=pss), signal.SIGKILL)
                else:
                    print(json.dumps(found), flush=True)
                    time.sleep(60 if fate == "interrupted" else 0)
                    time.sleep(60)
    done = time.perf_counter()
    print(json.dumps({"first": first - start, "images/s": (count - PIECE) / (done - first), "MiB": held}))


def run(kind: str, options: argparse.Namespace, fate: str) -> subprocess.Popen[str]:
    """Start `work` in a process and a group of its own."""
    command = [sys.executable, __file__, "--kind", kind, "--fate", fate]
    command += ["--images", str(options.images), "--workers", str(options.workers)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what a run printed, to its output and of its errors; "hangs" where it does not end."""
    try:
        return process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "", f"not at an end after {PATIENCE:.0f} s: it hangs"


def survive(kind: str, options: argparse.Namespace) -> str:
    """Return what becomes of a run whose worker is killed, of one interrupted, and of one that is killed."""
    out, errors = end(run(kind, options, "worker killed"))
    said = [line for line in errors.splitlines() if "Error" in line or "hangs" in line]
    killed = "goes on" if out.strip() else (said or ["no error"])[-1]
    interrupted = run(kind, options, "interrupted")
    assert interrupted.stdout is not None
    interrupted.stdout.readline()
    os.killpg(interrupted.pid, signal.SIGINT)
    _, errors = end(interrupted)
    printed = f"{errors.count('Traceback (most')} tracebacks" if "hangs" not in errors else errors
    dead = run(kind, options, "parent killed")
    assert dead.stdout is not None
    found = json.loads(dead.stdout.readline())
    dead.kill()
    start = time.perf_counter()
    while any(map(lives, found)) and time.perf_counter() - start < 30:
        time.sleep(0.05)
    took = time.perf_counter() - start
    left = [each for each in found if lives(each)]
    for each in left:
        os.kill(each, signal.SIGKILL)
    gone = f"{len(left)} of {len(found)} processes left" if left else f"gone after {took:.1f} s"
    return f"worker killed: {killed[:200]}\n   Ctrl-C: {printed}\n   parent killed: {gone}"


def lives(process: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def main() -> None:
    """Parse, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--fate", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        work(options.kind, options.images, options.workers, options.fate)
        return
    measured: dict[str, list[dict[str, float]]] = {kind: [] for kind in options.only}
    for _ in range(options.rounds):
        for kind in options.only:
            out, errors = run(kind, options, "measured").communicate()
            assert out, errors
            measured[kind].append(json.loads(out))
    for kind, found in measured.items():
        values = {name: [each[name] for each in found] for name in ("first", "images/s", "MiB")}
        facts = [f"{n} {statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for n, v in values.items()]
        print(f"{kind}: {', '.join(facts)}\n   {survive(kind, options)}", flush=True)


if __name__ == "__main__":
    main()
