"""The verb `rag-clip export`: the classifier for programs without RAG-CLIP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder, records_of
from rag_clip.cli.run import HEAD, SHOWN, Force, Shown, run


def export(
    prompts: Annotated[Path, Parameter(help="Prompts of `enhance`, or learned ones of `learn`.")],
    /,
    *,
    output: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"],
            help="A .safetensors, .npz or .onnx file, or for clip-benchmark a folder with the name of the data set.",
        ),
    ],
    format: Annotated[
        Literal["safetensors", "npz", "onnx", "clip-benchmark"] | None,
        Parameter(help="By default that of the output's suffix; clip-benchmark writes class names and templates."),
    ] = None,
    encoder: RecordedEncoder = RECORDED,
    index: Annotated[
        str | None, Parameter(help="The index of the prompts; its vectors spare encoding their captions again.")
    ] = None,
    support: Annotated[
        Path | None, Parameter(group=HEAD, help="A support file, or a file of evidence, for the head.")
    ] = None,
    head: Annotated[
        str | None,
        Parameter(
            group=HEAD,
            help="A head whose logits are linear: priming, gaussian, linear_probe, evidence or coop; default priming "
            "(evidence for such a file).",
        ),
    ] = None,
    head_options: Annotated[Path | None, Parameter(group=HEAD, help="A TOML file with settings of the head.")] = None,
    validation: Annotated[
        Path | None, Parameter(group=HEAD, help="A support file to choose the head's settings on.")
    ] = None,
    floor: Annotated[
        bool,
        Parameter(
            group=HEAD, help="Limit the weight of the head, down to none, to what held-out support images justify."
        ),
    ] = True,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Write the classifier for other programs: class weights, ONNX with the image tower, or CLIP_benchmark's files."""

    def job(console: Console) -> object:
        from rag_clip.classifiers.heads import read_options
        from rag_clip.classifiers.linear import check_linear_head
        from rag_clip.classifiers.prepared import prepare_head
        from rag_clip.classifiers.reuse import Reuse
        from rag_clip.files.evidence import is_evidence
        from rag_clip.files.outputs import check_outputs
        from rag_clip.given import to_prompts
        from rag_clip.pipelines.export import export_classifier, export_format, export_outputs
        from rag_clip.pipelines.running import Running

        chosen = export_format(output, format)
        precise = replace(encoder, precision=encoder.precision or "fp32") if chosen == "onnx" else encoder
        found = find_encoder(precise, records_of(prompts=[prompts], supports=[support, validation], index=index))
        read = [prompts, index, support, head_options, validation, found.files]
        check_outputs(export_outputs(output, chosen), inputs=read, force=force)
        if head and support is None:
            raise ValueError(f"the head {head!r} needs a support file; give --support")
        if head:
            check_linear_head(head)
        texts, prepared = to_prompts(prompts), None
        loaded = None if chosen == "clip-benchmark" and support is None else found.load(console)
        if support is not None and loaded is not None:
            name = head or ("evidence" if is_evidence(support) else "priming")
            if not head:
                console.say(f"head: {name}, the default of an export, for its logits are linear")
            prepared = prepare_head(
                name,
                support,
                labels=texts.labels,
                encoder=loaded,
                validation=validation,
                options=read_options(head_options) if head_options else None,
                report=console.report,
            )
            prepared = prepared if floor else prepared.without_floor()
        summary = export_classifier(
            texts,
            output=output,
            encoder=loaded,
            format=chosen,
            head=prepared,
            reuse=Reuse(index),
            running=Running(force=force, report=console.report),
        )
        console.say(str(summary))
        if support is not None and not summary.head:
            console.say(
                "the held-out support images justify nothing of the head, so the weights are of the texts alone"
            )
        if check := summary.check:
            console.say(
                f"compared with ours on {check.images} images: the largest difference of a logit is "
                f"{check.difference:.1e} (at most {check.tolerance:.1e} is accepted)"
            )
        return summary

    return run(job, shown)
