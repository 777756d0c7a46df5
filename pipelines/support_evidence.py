"""Sum support files into evidence of the classes, a source for each origin of their images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path

from rag_clip.classifiers.anchored import EvidenceSettings
from rag_clip.data import Support
from rag_clip.files.evidence import ClassEvidence, check_evidence_path, is_evidence, read_evidence, write_evidence
from rag_clip.files.outputs import holding
from rag_clip.files.support import read_support

from .running import Running

AnySupport = str | Path | Support | ClassEvidence


def support_evidence(
    supports: AnySupport | Sequence[AnySupport],
    *,
    output: str | Path | None = None,
    weights: EvidenceSettings = EvidenceSettings(),  # noqa: B008
    without: Sequence[str] = (),
    running: Running = Running(),  # noqa: B008
) -> ClassEvidence:
    """Return the evidence of support sets of the same classes and encoder, and write it for the head `evidence`.

    supports: support sets or evidence, or their files, or a list of these. An image in two of them counts twice: merge
        support files first if they share images.
    output: the .safetensors file to write, if any.
    weights: what an image of each origin counts, beside its relevance; evidence is weighed already.
    without: sources to leave out.
    running: `force`.

    Raises ValueError for no support set, for other classes or encoders, for images with several labels, for a source
    that is not there, and as `check_outputs` for an output that must not be written; BusyError if another process
    writes it; FileNotFoundError for a missing file.
    """
    given = [supports] if isinstance(supports, AnySupport) else list(supports)
    if not given:
        raise ValueError("there is nothing to sum; give at least one support file")
    if output is not None:
        check_evidence_path(Path(output))
    with holding(
        [(output, "support evidence")],
        inputs=[each for each in given if isinstance(each, str | Path)],
        force=running.force,
    ):
        made = reduce(add, (_gathered(each, weights) for each in given))
        for source in without:
            made = made.without(source)
        if output is not None:
            write_evidence(made, output)
    return made


def _gathered(given: AnySupport, weights: EvidenceSettings) -> ClassEvidence:
    if isinstance(given, ClassEvidence):
        return given
    if isinstance(given, Support):
        return weights.gather(given)
    if is_evidence(given):
        return read_evidence(given)
    try:
        return weights.gather(read_support(given))
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(str(given)) else f"{given}: {message}") from error
