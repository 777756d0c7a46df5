"""The pool of decode workers."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inputs.pictures import picture
from rag_clip.images.decoding import DecodeError, DecodePool, decode_items
from rag_clip.models.pixels import PixelTransform

TRANSFORM = PixelTransform(4, 4)


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


def test_results_come_back_in_the_order_of_the_requests():
    with DecodePool(TRANSFORM, workers=2) as pool:
        waiting = [pool.submit([picture(name)] * count) for count, name in enumerate(("red", "green", "blue") * 5, 1)]
        counts = [len(wait().errors) for wait in waiting]
    assert counts == list(range(1, 16))


def test_a_worker_that_dies_is_reported_with_its_exit_code():
    with DecodePool(TRANSFORM, workers=1) as pool:
        pool._processes[0].kill()
        with pytest.raises(DecodeError, match=r"a decode worker ended with exit code -9.*workers=0"):
            pool.submit([picture("red")])()


def test_workers_end_with_the_pool():
    with DecodePool(TRANSFORM, workers=2) as pool:
        processes = list(pool._processes)
        pool.submit([picture("red")] * 100)
    assert all(process.returncode is not None for process in processes)


def test_an_interrupt_of_the_terminal_is_left_to_the_parent():
    with DecodePool(TRANSFORM, workers=1) as pool:
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
        "from rag_clip.models.pixels import PixelTransform\n"
        "with DecodePool(PixelTransform(4, 4), workers=1) as pool:\n"
        "    print(pool.submit([None])().errors, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("('the image is null',) False\n", "")
