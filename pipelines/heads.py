"""Fit a head on a support file for `classify`, or learn prompts on it and write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rag_clip.classifiers.coop import CoOp, CoOpSettings
from rag_clip.classifiers.dpt import DPT, DPTSettings
from rag_clip.classifiers.heads import HeadSettings
from rag_clip.classifiers.prepared import PreparedHead
from rag_clip.classifiers.prepared import prepare_head as prepare
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Prompts
from rag_clip.files.evidence import is_evidence, read_evidence
from rag_clip.files.learned_prompts import LearnedPrompts, check_learned_path, write_learned_prompts
from rag_clip.files.outputs import holding
from rag_clip.files.support import read_support
from rag_clip.given import AnyEncoder, AnyLabels, to_encoder, to_encoders, to_labels, to_texts
from rag_clip.progress import Report
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder

from .running import Running


@on_screen.job()
def prepare_head(
    head: str | HeadSettings,
    support: str | Path,
    *,
    labels: AnyLabels | Prompts,
    encoder: AnyEncoder | None = None,
    others: Mapping[str, Encoder] | Sequence[str] = (),
    validation: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    report: Report = on_screen,
) -> PreparedHead:
    """Return a head on a support file, for `classify`.

    head: the name of a head, or its settings as a value.
    support: the support file; for the head `evidence`, a file of evidence too.
    labels: the classes to classify: a list of names, a label file, a LabelSet, or the Prompts of `classify`.
    encoder: the encoder of the classifier, or the name of a model; by default the one that the support file records.
    others: further encoders by name, or names of models; their features come from the files, or from the images stored
        in them.
    validation: a support file of other images, on which settings that are not given are chosen.
    options: settings that differ from the defaults, as in TOML, for a head given by name.
    report: called with the progress.

    Held-out images decide how much of the head is used, which may be nothing: see `classifiers/floor.py` and
    `PreparedHead.without_floor`. Raises TypeError for what cannot be labels or an encoder, and ValueError as
    `rag_clip.classifiers.prepared.prepare_head`.
    """
    return prepare(
        head,
        support,
        labels=labels.labels if isinstance(labels, Prompts) else to_labels(labels),
        encoder=_to_encoder(encoder, support),
        others=to_encoders(others),
        validation=validation,
        options=options,
        report=report,
    )


@on_screen.job()
def learn_prompts(
    prompts: Prompts | str | Path,
    support: str | Path,
    *,
    output: str | Path,
    encoder: AnyEncoder | None = None,
    validation: str | Path | None = None,
    method: Literal["coop", "dpt"] = "coop",
    options: Mapping[str, Any] | CoOpSettings | DPTSettings | None = None,
    running: Running = Running(),  # noqa: B008
) -> LearnedPrompts:
    """Learn a context around the class names on a support file, and write it for `classify`.

    prompts: the prompts whose classes are learned, or their file.
    support: the support file.
    output: the .safetensors file to write.
    encoder: an encoder with a text tower, or the name of a model; by default the one that the support file records.
    validation: a support file of other images, on which the epoch is chosen.
    method: coop, or dpt, which also learns visual prompts for the image tower, from a support file with its images.
    options: settings as in TOML, or as a value, which names the method itself.
    running: `force` and progress.

    Raises ValueError as `prepare_head`, if the output is not .safetensors, is an input or (without `force`) belongs to
    another program, and for an encoder without a text tower; BusyError if another process writes the output.
    """
    check_learned_path(Path(output))
    prompts, encoder = to_texts(prompts), _to_encoder(encoder, support)
    head, given = (options, None) if isinstance(options, CoOpSettings | DPTSettings) else (method, options)
    with holding([(output, "learn")], inputs=[support, validation], force=running.force):
        prepared = prepare(
            head,
            support,
            labels=prompts.labels,
            encoder=encoder,
            validation=validation,
            options=given,
            report=running.report,
        ).without_floor()
        learned = prepared.build(zero_shot(prompts, encoder, report=running.report))
        assert isinstance(learned, CoOp | DPT)
        made = replace(learned.prompts, provenance={**learned.prompts.provenance, "head": prepared.facts})
        write_learned_prompts(made, output)
    return made


def _to_encoder(given: AnyEncoder | None, support: str | Path) -> Encoder:
    if given is not None:
        return to_encoder(given)
    recorded = read_evidence(support).recorded if is_evidence(support) else read_support(support).recorded
    return to_encoder(None, recorded=recorded.encoder)
