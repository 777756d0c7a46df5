"""The pool of decode workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inputs.pictures import encoded, picture
from inputs.shrink import shrink
from rag_clip.images.decoding import DecodeError, DecodePool, decode_items
from rag_clip.images.views import CopyViews, CropViews
from rag_clip.models.pixels import PixelTransform
from rag_clip.protocols import Preprocess

TRANSFORM = PixelTransform(4, 4)


@dataclass
class Watched:
    """A preprocess that notes the sizes of what it gets."""

    seen: list[tuple[int, int]]
    least_side: int = 672

    def __call__(self, image: Image.Image) -> np.ndarray:
        self.seen.append(image.size)
        return np.zeros((1, 1, 3), np.uint8)


def test_pixels_hold_the_good_images_and_errors_have_one_entry_per_image(tmp_path: Path):
    (tmp_path / "blue.png").write_bytes(picture("blue"))
    decoded = decode_items([picture("red"), None, str(tmp_path / "blue.png"), b"x"], TRANSFORM)
    assert decoded.pixels is not None
    assert decoded.pixels.shape == (2, 4, 4, 3)
    assert decoded.pixels[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert [error is None for error in decoded.errors] == [True, False, True, False]
    assert not decoded.unreadable


def test_a_file_that_cannot_be_read_may_be_there_later(tmp_path: Path):
    decoded = decode_items([str(tmp_path / "gone.png"), str(tmp_path)], TRANSFORM)
    assert decoded.unreadable
    assert decoded.pixels is None
    assert decoded.errors == (
        f"cannot read {str(tmp_path / 'gone.png')!r}: No such file or directory",
        f"{tmp_path} is a folder; give a file",
    )


def test_a_preprocess_that_fails_is_an_error_of_the_row():
    def refuse(image: Image.Image) -> np.ndarray:
        raise IndexError("odd")

    assert decode_items([picture("red")], refuse).errors == ("IndexError: odd",)


@pytest.mark.parametrize("preprocess", [TRANSFORM, shrink])
def test_results_come_back_in_the_order_of_the_requests(preprocess):
    with DecodePool(preprocess, workers=2) as pool:
        waiting = [pool.submit([picture(name)] * count) for count, name in enumerate(("red", "green", "blue") * 5, 1)]
        counts = [len(wait().errors) for wait in waiting]
    assert counts == list(range(1, 16))


def test_a_worker_that_dies_is_reported_with_its_exit_code():
    with DecodePool(shrink, workers=1) as pool:
        pool._processes[0].kill()
        with pytest.raises(DecodeError, match=r"a decode worker ended with exit code -9.*workers=0"):
            pool.submit([picture("red")])()


def test_workers_end_with_the_pool():
    with DecodePool(shrink, workers=2) as pool:
        processes = list(pool._processes)
        pool.submit([picture("red")] * 100)
    assert len(processes) == 2
    assert all(process.returncode is not None for process in processes)


@pytest.mark.parametrize("preprocess", [TRANSFORM, CropViews(TRANSFORM, 2), CopyViews(TRANSFORM)])
def test_preprocesses_of_ours_run_in_threads_that_end_with_the_pool(preprocess: Preprocess):
    before = threading.active_count()
    with DecodePool(preprocess, workers=2) as pool:
        waiting = [pool.submit([picture("red"), None]) for _ in range(20)]
        assert all(wait().errors == (None, "the image is null") for wait in waiting)
        assert pool._processes == []
        assert threading.active_count() == before + 2
    assert threading.active_count() == before


def test_facts_of_an_image_do_not_depend_on_how_far_the_encoder_reduces_it():
    photograph = encoded(Image.new("RGB", (2016, 1344), "red"), "JPEG")

    def size(_data: bytes, image: Image.Image) -> tuple[int, int]:
        return image.size

    assert decode_items([photograph], TRANSFORM, size).facts == ((2016, 1344),)
    seen: list[tuple[int, int]] = []
    decode_items([photograph], Watched(seen))
    assert seen == [(1008, 672)]


def test_an_interrupt_of_the_terminal_is_left_to_the_parent():
    with DecodePool(shrink, workers=1) as pool:
        pool.submit([picture("red")])()  # it is up
        pool._processes[0].send_signal(signal.SIGINT)
        assert pool.submit([picture("red")])().errors == (None,)


def test_a_preprocess_that_no_worker_can_load_is_refused():
    with pytest.raises(TypeError, match=r"cannot be pickled .*; pass workers=0"), DecodePool(lambda x: x, workers=1):
        pass


def test_a_script_needs_no_main_guard_and_workers_load_no_torch(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from rag_clip.images.decoding import DecodeError, DecodePool\n"
        "from inputs.shrink import shrink\n"
        "with DecodePool(shrink, workers=1) as pool:\n"
        "    print(pool.submit([None])().errors, 'torch' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("('the image is null',) False\n", "")
