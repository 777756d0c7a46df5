"""Compare a wheel's files with what git tracks, and its demo assets with their size limit: `wheel_files.py WHEEL`."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ASSETS = "rag_clip/demo/assets/"
ASSETS_LIMIT = 25_000_000  # the world 15 MB, its painter 8, its second encoder 2


def wheel_paths(tracked: Iterable[str], *, package_dir: Mapping[str, str]) -> set[str]:
    """Map tracked paths to their places in the wheel; paths outside the packages' folders are left out."""
    places = {f"{folder}/": f"{package.replace('.', '/')}/" for package, folder in package_dir.items()}
    return {
        place + path.removeprefix(folder)
        for path in tracked
        for folder, place in places.items()
        if path.startswith(folder)
    }


def faults(wheel: zipfile.ZipFile, expected: set[str]) -> list[str]:
    """Say what the wheel lacks, has too much of, or has too large; empty where it is as it should be."""
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    top_level = [wheel.read(name).decode().split() for name in wheel.namelist() if name.endswith("/top_level.txt")]
    assets = sum(entry.file_size for entry in wheel.infolist() if entry.filename.startswith(ASSETS))
    return [
        *(f"not in the wheel: {name}" for name in sorted(expected - found)),
        *(f"not tracked by git: {name}" for name in sorted(found - expected)),
        *([] if top_level == [["rag_clip"]] else [f"top_level.txt is {top_level}, not rag_clip alone"]),
        *([] if assets <= ASSETS_LIMIT else [f"demo assets are {assets} bytes; the limit is {ASSETS_LIMIT}"]),
    ]


def main() -> None:
    """Print the wheel's size and faults; exit with 1 where there are any."""
    path = Path(sys.argv[1])
    root = Path(__file__).resolve().parent.parent
    package_dir = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    with zipfile.ZipFile(path) as wheel:
        expected = wheel_paths(tracked.split("\0"), package_dir=package_dir)
        found = faults(wheel, expected)
        assets = sum(entry.file_size for entry in wheel.infolist() if entry.filename.startswith(ASSETS))
    print(f"{path.name}: {path.stat().st_size:,} bytes, {len(expected)} files, demo assets {assets:,} bytes")
    print("\n".join(found) or "the wheel holds exactly the tracked files")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
