"""Take the screenshots of docs/tour.md: pages of a finished demo, by Chromium, as small PNG files.

    rag-clip demo --out out/demo
    python tests/benchmarks/screenshots.py out/demo

It evaluates, explains and serves (extra `web`) what is in the demo's folder. Needs a chromium on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

import rag_clip

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTH = 1100
ADDRESS = "http://127.0.0.1:8799"
COLOURS = 96


def take(page: str, output: Path, *, top: int = 0, height: int = 760) -> None:
    """Take a part of one page by its address, `height` pixels from `top` on, with a palette of few colours."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("there is no chromium on the PATH; install one")
    with TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        size = f"{WIDTH},{top + height}"
        command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=2000"]
        subprocess.run(
            [*command, f"--window-size={size}", f"--screenshot={raw}", page], check=True, capture_output=True
        )
        with Image.open(raw) as picture:
            part = picture.convert("RGB").crop((0, top, WIDTH, top + height))
            part.quantize(COLOURS).save(output, optimize=True)
    print(f"{output}: {output.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make the pages, and take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path)
    demo = parser.parse_args().demo
    prompts = [demo / f"prompts-{name}.parquet" for name in ("templates", "repe", "retrieved")]
    with TemporaryDirectory() as folder:
        results = Path(folder) / "results.parquet"
        command = ["rag-clip", "evaluate", demo / "test.parquet", "--prompts", *prompts, "--model", "demo"]
        subprocess.run([*command, "--features", demo / "features", "-o", results], check=True)
        why = Path(folder) / "why.html"
        command = ["rag-clip", "explain", "--images", demo / "test.parquet", "--row", "0", "--prompts", prompts[-1]]
        subprocess.run([*command, "--html", why], check=True)
        name = rag_clip.read_prompts(prompts[-1]).labels.names[1]
        take(f"file://{demo.resolve() / 'report.html'}", IMAGES / "report.png", height=1000)
        take(f"file://{demo.resolve() / 'classes.html'}#{name}", IMAGES / "classes.png")
        take(f"file://{why}", IMAGES / "why.png")
        take(f"file://{results.with_suffix('.html')}", IMAGES / "evaluation.png", top=640, height=900)
    command = ["rag-clip", "serve", str(demo), "--model", "demo", "--port", ADDRESS.rpartition(":")[2]]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        service.stdout.readline()  # its address, once it listens
        take(f"{ADDRESS}/index?name=images&text=red+flag", IMAGES / "serve.png")
        service.terminate()


if __name__ == "__main__":
    main()
