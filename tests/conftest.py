"""What every run of the suite ends with: how many tests were skipped, by reason."""

from __future__ import annotations

import gc
import signal
from collections import Counter

import pytest

from inputs.folders import SHARED

MACHINE = ("needs a GPU", "needs a Qdrant server", "needs a browser")


# Files that take longest, measured with every extra, first: so no process ends alone with one of them.
LONGEST = """
    docs ray_actors devices download second_device command_line browser load outputs_of_verbs edge adapt kills
    recorded_encoder evaluate crash evaluation demo batch images image_sources open_clip classify_together
    snapshots dpt parquet_batches painter jobs_on_a_server architecture assets discover server_load
    onnx_export merge support several_captions images_input evaluate_two_encoders evaluate_few_shot idea
    search images_cleaning resume captions evaluate_bad_input choose_texts server_process nlip postings coop
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--complete",
        action="store_true",
        help="fail if a test was skipped for anything but a GPU, a Qdrant server or a browser "
        "(and, where it does not lie beside the clone, ../shared)",
    )


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes of tests where the shell started the suite in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order is otherwise that of the folders."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def pytest_collection_finish() -> None:
    """Leave what the imports made, some million objects, out of later collections of garbage: a tenth of the time."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason, number in skipped(terminalreporter).most_common():
        terminalreporter.write_line(f"skipped: {number} {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not session.config.getoption("--complete") or exitstatus != pytest.ExitCode.OK:
        return
    allowed = MACHINE if SHARED.is_dir() else (*MACHINE, "needs ../shared")
    if any(not reason.startswith(allowed) for reason in skipped(reporter)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def skipped(reporter: pytest.TerminalReporter) -> Counter[str]:
    """Count the skipped tests by reason; a skipped file counts once."""
    reports = reporter.stats.get("skipped", [])
    return Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
