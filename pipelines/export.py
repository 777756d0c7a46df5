"""Write a classifier for other programs: class weights, ONNX with the image tower, or texts for CLIP_benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from rag_clip.classifiers.coop import learned_zero_shot
from rag_clip.classifiers.floor import Floored
from rag_clip.classifiers.linear import check_linear_head, linear_form
from rag_clip.classifiers.prepared import PreparedHead
from rag_clip.classifiers.reuse import NOTHING, Reuse
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.files.clip_benchmark import write_clip_benchmark
from rag_clip.files.learned_prompts import LearnedPrompts
from rag_clip.files.linear_classifiers import LinearClassifier, write_linear_classifier
from rag_clip.files.outputs import Outputs, holding
from rag_clip.given import AnyEncoder, AnyPrompts, to_encoder, to_prompts
from rag_clip.models.onnx_export import OnnxCheck, write_onnx
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder

from .running import Running

Format = Literal["safetensors", "npz", "onnx", "clip-benchmark"]


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What `export_classifier` wrote.

    output: the file, or the folder of CLIP_benchmark's two files.
    format: safetensors, npz, onnx or clip-benchmark.
    classes: the number of classes.
    width, scale: of the features, and of their cosines; None for clip-benchmark, which has no weights.
    head: the name of the head in the weights; '' for texts alone, and where its floor left nothing of it.
    check: how far an ONNX file is from ours; None for other formats.
    """

    output: Path
    format: Format
    classes: int
    width: int | None = None
    scale: float | None = None
    head: str = ""
    check: OnnxCheck | None = None

    def __str__(self) -> str:
        """Say it in one line."""
        width = f", {self.width} wide, scale {self.scale:.2f}" if self.width else ""
        head = f", with the head {self.head}" if self.head else ""
        return f"{self.output}: {counted(self.classes, 'class')}{width}{head}"

    __repr__ = __str__


@on_screen.job()
def export_classifier(
    prompts: AnyPrompts,
    *,
    output: str | Path,
    encoder: AnyEncoder | None = None,
    format: Format | None = None,
    head: PreparedHead | None = None,
    reuse: Reuse = NOTHING,
    running: Running = Running(),  # noqa: B008
) -> ExportSummary:
    """Write the classifier of prompts, and of a head on support images, for programs without RAG-CLIP.

    prompts: prompts or learned prompts, or their file.
    output: a `.safetensors` or `.npz` file of class weights (see `files.linear_classifiers`), a `.onnx` file with the
        image tower (see `models.onnx_export`), or a folder, for clip-benchmark, whose name is that of the data set.
    encoder: an encoder or the name of a model; by default the one that the prompts record.
    format: by default that of the output's suffix; clip-benchmark must be named.
    head: a head of `prepare_head` whose logits are linear in the image features.
    reuse: the index whose captions are already encoded.
    running: `force` and progress.

    Raises ValueError for another suffix, a head that is not linear, prompts that CLIP_benchmark cannot average, and for
    an output that is not of an earlier call (without `force`); OnnxError if the ONNX file cannot be made, or differs
    from ours by more than rounding explains.
    """
    given, output = to_prompts(prompts), Path(output)
    chosen = export_format(output, format)
    if head is not None:
        check_linear_head(head.facts["name"])
    read = [prompts if isinstance(prompts, str | Path) else None, reuse.place]
    with holding(export_outputs(output, chosen), inputs=read, force=running.force):
        if chosen == "clip-benchmark":
            return _clip_benchmark(given, output, head)
        encoder = to_encoder(encoder, recorded=given.recorded.encoder)
        classifier, name = _classifier(given, encoder, head, reuse, running)
        facts = {"encoder": classifier.provenance["encoder"], "prompts": given.recorded.method, "head": name}
        classifier = replace(classifier, provenance=facts)
        width = classifier.weights.shape[1]
        check = None
        if chosen == "onnx":
            check = _write_onnx(classifier, two_towers(encoder), output)
        else:
            write_linear_classifier(classifier, output)
    return ExportSummary(output, chosen, len(given.labels), width, classifier.scale, name, check)


def export_format(output: Path, given: str | None = None) -> Format:
    """Return the format, given or by the suffix; raises ValueError for an unknown one, and a suffix that is not its."""
    suffix = output.suffix.lower().removeprefix(".")
    known: Sequence[Format] = get_args(Format)
    if given is None and suffix not in known[:3]:
        raise ValueError(
            f"{output} has the suffix {output.suffix!r}; classifiers are .safetensors, .npz or .onnx files, or a "
            "folder with the format clip-benchmark"
        )
    chosen = next((each for each in known if each == (given or suffix)), None)
    if chosen is None:
        raise ValueError(f"unknown format {given!r}; choose one of {', '.join(known)}")
    if chosen != "clip-benchmark" and suffix != chosen:
        raise ValueError(
            f"{output} has the suffix {output.suffix!r}, and the format is {chosen}; name a .{chosen} file"
        )
    return chosen


def export_outputs(output: Path, format: Format) -> Outputs:
    """Return what an export writes, as `check_outputs` takes it."""
    return [(output, "clip-benchmark" if format == "clip-benchmark" else "export")]


def _clip_benchmark(given: Prompts | LearnedPrompts, output: Path, head: PreparedHead | None) -> ExportSummary:
    if head is not None or isinstance(given, LearnedPrompts):
        what = "learned vectors" if isinstance(given, LearnedPrompts) else "support images"
        raise ValueError(f"CLIP_benchmark's files hold texts, and no {what}; export the class weights instead")
    write_clip_benchmark(given, output, dataset=output.resolve().name)
    return ExportSummary(output, "clip-benchmark", len(given.labels))


def _classifier(
    given: Prompts | LearnedPrompts, encoder: Encoder, head: PreparedHead | None, reuse: Reuse, running: Running
) -> tuple[LinearClassifier, str]:
    """Return the linear classifier, and the name of the head that is in it."""
    if isinstance(given, LearnedPrompts):
        if given.visual:
            raise ValueError(
                "the learned prompts have visual prompts, which change the image tower, so their vectors fit no other "
                "program's features; learn prompts with the method coop"
            )
        text: ZeroShot = learned_zero_shot(given, two_towers(encoder))
    else:
        text = zero_shot(given, encoder, known=reuse.vectors([given], encoder), report=running.report)
    if head is None:
        return linear_form(text, encoder), ""
    built = head.build(text)
    used = not (isinstance(built, Floored) and not built.strength)
    return linear_form(built, encoder), str(head.facts["name"]) if used else ""


def _write_onnx(classifier: LinearClassifier, encoder: TwoTowers, output: Path) -> OnnxCheck:
    preprocess = encoder.fingerprint.preprocessing
    facts: Mapping[str, object] = {**classifier.facts, "preprocessing": preprocess}
    return write_onnx(encoder, classifier.scale * classifier.weights, classifier.bias, output, facts=facts)
