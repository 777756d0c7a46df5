"""The encoder that the input files of a verb record, so that --model may be left out.

A recorded fingerprint contains the model as the user named it; the encoder loaded by that name must have the same
fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.run import ENCODER, Device, EncoderOptions, Precision

if TYPE_CHECKING:
    from rag_clip.data import Fingerprint, Prompts
    from rag_clip.files.learned_prompts import LearnedPrompts
    from rag_clip.protocols import Encoder

Record = tuple[str, Mapping[str, Any]]


@Parameter(name="*", group=ENCODER)
@dataclass(frozen=True)
class RecordedEncoder(EncoderOptions):
    """The options of an encoder that the input files of a verb may record."""

    model: Annotated[
        str,
        Parameter(help="As for `index build`; by default the one recorded by the prompts, support or index."),
    ] = ""
    device: Device = None  # repeated here, because cyclopts looks up the types in this module
    precision: Precision = None


RECORDED = RecordedEncoder()


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder to load: the one that the user named, or else `made_with`, which `place` records."""

    options: EncoderOptions
    place: str = ""
    made_with: Fingerprint | None = None

    @property
    def files(self) -> list[str]:
        """The file or folder of the model, if it has one."""
        return self.options.files

    def load(self, console: Console) -> Encoder:
        """Load the encoder.

        Raises ValueError if none was found, or if the name now gives another encoder than the recorded one;
        EncoderError if it cannot be loaded.
        """
        if not self.options.model:
            unrecorded = f", and {self.place} records none" if self.place else ""
            raise ValueError(f"--model is missing{unrecorded}; add it, such as --model demo or --model ViT-B-32:openai")
        if self.made_with is None:
            return self.options.load(console)

        from rag_clip.models.open_clip import EncoderError

        try:
            encoder = self.options.load(console)
        except EncoderError as error:
            raise EncoderError(f"{error}; {self.place} records this model, so give --model if it has moved") from error
        if not encoder.fingerprint.agrees_with(self.made_with):
            raise ValueError(
                f"{self.options.model} is now {encoder.fingerprint}, but {self.place} was made with {self.made_with}; "
                "give the right --model, or make the file again"
            )
        return encoder


def find_encoder(options: EncoderOptions, records: Iterable[Record]) -> FoundEncoder:
    """Return the encoder of the options, or the first one in `records`, pairs of a place and a recorded fingerprint.

    Reads no more records than necessary. Raises ValueError for a record that is not a fingerprint.
    """
    if options.model:
        return FoundEncoder(options)

    from rag_clip.data import read_fingerprint

    places = []
    for place, record in records:
        places.append(place)
        try:
            made_with = read_fingerprint(record) if record else None
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if made_with is not None and made_with.spec:
            return FoundEncoder(replace(options, model=made_with.spec), place, made_with)
    return FoundEncoder(options, " and ".join(places))


def records_of(
    *, prompts: Sequence[Path] = (), supports: Sequence[Path | None] = (), index: str | None = None
) -> Iterator[Record]:
    """Yield the encoder that prompts, support files and an index record, {} if none; None is skipped."""
    for path in prompts:
        yield f"the prompts {path}", _read(path).recorded.encoder
    for support in supports:
        if support is not None:
            yield f"the support file {support}", _support_encoder(support)
    if index is not None:
        from rag_clip.store import open_store

        with open_store(index) as store:
            record = asdict(store.card.encoder)
        yield f"the index {index}", record


def _support_encoder(path: Path) -> Mapping[str, Any]:
    from rag_clip.files.evidence import is_evidence, read_evidence
    from rag_clip.files.support import read_support

    return read_evidence(path).recorded.encoder if is_evidence(path) else read_support(path).recorded.encoder


def _read(path: Path) -> Prompts | LearnedPrompts:
    from rag_clip.files.learned_prompts import read_learned_prompts
    from rag_clip.files.prompts import read_prompts
    from rag_clip.files.tensors import SUFFIX

    return read_learned_prompts(path) if path.suffix.lower() == SUFFIX else read_prompts(path)
