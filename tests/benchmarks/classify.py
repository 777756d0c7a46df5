"""Images per second of classify against the bare encoder's on the same images, and peak memory on a large file.

    python tests/benchmarks/classify.py                                  the micro shape, generated images
    python tests/benchmarks/classify.py --model ViT-B-32 --images FILE   another shape, one's own Parquet file
    python tests/benchmarks/classify.py --memory [--megabytes 2000]      one row group of that size, deleted afterwards

Models have random weights: speed does not depend on them. `--model` also takes any specification of load_encoder.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from timing import Spent, timed

from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.images.decoding import decode_items
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.protocols import Encoder

SHAPES: dict[str, dict[str, Any]] = {
    "micro": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 48, "patch_size": 8, "width": 128, "head_width": 32, "layers": 4},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
    },
}


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="micro")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--column", default="image")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--only-classify", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.only_classify:
            print(json.dumps(watch_memory(options.only_classify, options, folder)))
        elif options.memory:
            measure_memory(options, folder)
        else:
            measure_speed(options, folder)


def measure_speed(options: argparse.Namespace, folder: Path) -> None:
    """Print the rates of decoding, the bare encoder, and classify for each number of workers."""
    encoder = load_encoder(model_spec(options.model, folder))
    source = take_images(folder, options.rows, given=options.images, column=options.column)
    images = pq.read_table(source)[options.column].to_pylist()
    pixels, decoding = timed(lambda: decode_items(images, encoder.preprocess).pixels)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    encode(encoder, tensor[:256])
    _, bare = timed(lambda: encode(encoder, tensor))
    _, together = timed(lambda: encoder.encode_images(images))
    kilobytes = sum(map(len, images)) / len(images) / 1000
    print(f"{len(images)} images of {kilobytes:.1f} kB, {torch.get_num_threads()} threads of torch")
    print(f"{'':30} images/s   of bare   processor ms/image   of bare")
    rows = {"decode, one process": decoding, "bare encoder, pixels ready": bare, "encode_images(bytes)": together}
    for name, found in rows.items():
        print_rates(name, found, bare, len(images))
    for workers in options.workers or [None, 0]:
        settings = {"output": folder / "out.parquet", "encoder": encoder, "image_column": options.column}
        summary, found = timed(lambda: classify([source], prompts=prompts(), running=Running(workers), **settings))  # noqa: B023
        print_rates(f"classify, workers={workers}", found, bare, len(images))
        print("   seconds:", ", ".join(f"{name} {seconds:.2f}" for name, seconds in summary.seconds.items()))


def print_rates(name: str, found: Spent, bare: Spent, count: int) -> None:
    """Print wall and processor time per image; on a machine that others use, only the latter can be compared."""
    print(
        f"{name:30} {count / found.wall:8.1f}  {bare.wall / found.wall:8.2f}"
        f"   {1000 * found.processor / count:18.2f}  {bare.processor / found.processor:8.2f}"
    )


def measure_memory(options: argparse.Namespace, folder: Path) -> None:
    """Print the peak of a fresh process that classifies one giant row group, workers included."""
    source = folder / "giant.parquet"
    process = os.fork()
    if not process:  # the writer needs the whole row group; its memory must not count
        write_giant(source, options.megabytes)
        os._exit(0)
    os.waitpid(process, 0)
    facts = pq.ParquetFile(source).metadata
    print(f"{source.stat().st_size / 1e6:.0f} MB, {facts.num_rows} rows, {facts.num_row_groups} row group")
    command = [sys.executable, __file__, "--only-classify", str(source), "--model", options.model]
    command += ["--workers", *map(str, options.workers)] if options.workers else []
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, value in found.items():
        print(f"{name:32} {value:9.0f}")


def watch_memory(source: Path, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Classify in this process and sample the resident memory of it and its workers, in MiB."""
    encoder = load_encoder(model_spec(options.model, folder))
    encode(encoder, torch.zeros(256, 3, encoder.preprocess.height, encoder.preprocess.width, dtype=torch.uint8))
    before, peak, over = resident(os.getpid()), 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not over.wait(0.02):
            peak = max(peak, resident(os.getpid()) + sum(map(resident, children(os.getpid()))))

    watcher = threading.Thread(target=sample)
    watcher.start()
    start = time.perf_counter()
    summary = classify(
        [source],
        prompts=prompts(),
        output=folder / "out.parquet",
        encoder=encoder,
        running=Running(options.workers[0] if options.workers else None),
    )
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    assert summary.failed == 0
    return {
        "MiB, libraries and model": before,
        "MiB, peak of this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "MiB, peak with the workers": peak,
        "MiB, peak beyond the first": peak - before,
        "images/s": summary.rows / seconds,
    }


def resident(process: int) -> float:
    """Resident memory of a process in MiB; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


def children(process: int) -> list[int]:
    """Processes that any thread of `process` started."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def model_spec(name: str, folder: Path) -> str:
    """Write a model of the shape `name` with random weights, or return the specification as it stands.

    A shape is one of `SHAPES` or the name of a model of open_clip, here with CLIP's tokenizer, which needs no download.
    """
    shape = SHAPES.get(name) or open_clip.get_model_config(name)
    if not shape:
        return name
    place = folder / name
    if place.exists():
        return f"local-dir:{place}"
    foreign = ("hf_tokenizer_name", "tokenizer_kwargs")
    text = {key: value for key, value in shape["text_cfg"].items() if key not in foreign}
    shape = {**shape, "text_cfg": {**text, "vocab_size": 49408}}
    place.mkdir()
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": shape, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # the random weights that open_clip warns of are wanted here
    model = open_clip.create_model(f"local-dir:{place}", pretrained_text=False)
    logging.disable(logging.NOTSET)
    save_file(model.state_dict(), place / "open_clip_model.safetensors")
    return f"local-dir:{place}"


def take_images(
    folder: Path, rows: int, *, given: Path | None = None, column: str = "image", size: tuple[int, int] = (160, 120)
) -> Path:
    """Write `rows` rows of the file given (repeated where it has fewer), or of generated JPEGs."""
    if given:
        images = pq.read_table(given, columns=[column])[column].to_pylist()
    else:
        noise = np.random.default_rng(0)
        images = [jpeg(noise.integers(0, 256, (12, 16, 3), np.uint8), size=size) for _ in range(200)]
    repeated = [images[row % len(images)] for row in range(rows)]
    pq.write_table(pa.table({column: pa.array(repeated, pa.binary())}), folder / "images.parquet")
    return folder / "images.parquet"


def write_giant(path: Path, megabytes: int) -> None:
    """One row group of 100 kB images: a small JPEG each, and noise behind it that decoders skip but readers cannot."""
    noise = np.random.default_rng(0)
    picture = jpeg(noise.integers(0, 256, (8, 8, 3), np.uint8), size=(64, 64))
    rows = [picture + noise.bytes(100_000 - len(picture)) for _ in range(megabytes * 10)]
    pq.write_table(pa.table({"image": rows}), path, row_group_size=len(rows))


def jpeg(pixels: np.ndarray, *, size: tuple[int, int]) -> bytes:
    """Blow coarse noise up to a picture with edges and gradients."""
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def prompts(count: int = 100) -> Prompts:
    """Return classes of one text each."""
    names = tuple(f"thing {number}" for number in range(count))
    return Prompts(LabelSet(names), tuple((PromptText(f"a photo of {name}", 1.0),) for name in names))


def encode(encoder: Encoder, pixels: torch.Tensor) -> None:
    """Embed in batches of 256."""
    for batch in torch.split(pixels, 256):
        encoder.encode_pixels(batch).pooled.cpu()


if __name__ == "__main__":
    main()
