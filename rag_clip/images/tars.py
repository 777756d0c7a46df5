"""Webdataset tars of image-caption pairs, as img2dataset writes them: KEY.jpg, KEY.txt, KEY.json.

Members are read in place and never extracted. If a tar is cut short, its last row is an error that says so.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from rag_clip.captions.sources.files import open_file
from rag_clip.files import webdataset
from rag_clip.files.identity import FileIdentity, identify
from rag_clip.files.locations import Place
from rag_clip.files.webdataset import MAX_TEXT_BYTES, DamagedTarError, Member, dotted_names, read_samples
from rag_clip.images.listing import ENDINGS
from rag_clip.images.pairs import Pair

MAX_IMAGE_BYTES = 256 << 20
DOTTED = "has a dot, and webdataset ends a name at its first dot; rename the files in the tar"


@dataclass(slots=True)
class Sample:
    """The members of one key: (offset, size) of the image and, by ending, of the other `parts`; and its problem."""

    key: str
    image: tuple[int, int] | None = None
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class TarPairs:
    """The samples of a tar, in its order; a PairFile."""

    path: Place
    source: str
    identity: FileIdentity
    samples: list[Sample]

    @property
    def rows(self) -> int:
        """The number of samples, and one more if the tar is cut short."""
        return len(self.samples)

    @property
    def row_bytes(self) -> int:
        """Bytes of the largest image."""
        return max((sample.image[1] for sample in self.samples if sample.image), default=0)

    def read(self, sizes: Sequence[int], *, start: int) -> Iterator[list[Pair]]:
        """Yield lists of pairs of the given sizes, from sample `start` on."""
        with open_file(str(self.path)) as file:
            for size in sizes:
                yield [_to_pair(file, sample) for sample in self.samples[start : start + size]]
                start += size


def open_tar(path: Place, *, source: str, identity: FileIdentity | None = None) -> TarPairs:
    """Read the list of samples of a tar; consecutive members with the same key are one sample.

    `source` is stored with the pairs. Raises ValueError if the file is not an uncompressed tar.
    """
    samples: list[Sample] = []
    with open_file(str(path)) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            for members in read_samples(file, texts=False):
                samples += _to_samples(members, size)
        except tarfile.ReadError as error:
            raise ValueError(f"{path} is not a tar, or compressed ({error}); give uncompressed tars") from None
        except DamagedTarError:
            lost = "the tar is cut short or damaged here, and the rest is lost; download it again"
            samples.append(Sample("", problem=lost))
    return TarPairs(path, source, identity or identify(path), samples)


def _to_samples(members: webdataset.Sample, size: int) -> list[Sample]:
    """Return the sample; or, if all its names contain a dot, one sample with a problem for each of these names."""
    sample = Sample(members.key)
    for member in members.members:
        _add(sample, member, size)
    if sample.problem or sample.image or not (names := dotted_names(sample.key, sample.parts)):
        return [sample]
    return [Sample(name, problem=f"the name {name!r} {DOTTED}") for name in names]


def _add(sample: Sample, member: Member, size: int) -> None:
    is_image = member.ending in ENDINGS
    if member.leads_out:
        sample.problem = f"member {member.name!r} points outside the tar; it is not read"
    elif not member.regular or member.sparse:
        sample.problem = f"member {member.name!r} is a link, a device or sparse, not a regular file; it is not read"
    elif member.offset + member.size > size:
        sample.problem = f"member {member.name!r} is cut short"
    elif member.size > (MAX_IMAGE_BYTES if is_image else MAX_TEXT_BYTES):
        sample.problem = f"member {member.name!r} has {member.size:,} bytes, which is above the limit"
    elif is_image:
        sample.image = (member.offset, member.size)
    else:
        sample.parts[member.ending] = (member.offset, member.size)


def _to_pair(file: IO[bytes], sample: Sample) -> Pair:
    if sample.problem:
        return Pair(None, None, "", sample.key, sample.problem)
    if sample.image is None:
        return Pair(
            None, None, "", sample.key, f"the sample has no image ({', '.join(sample.parts) or 'nothing'} only)"
        )
    try:
        facts = read_facts(file, sample)
        caption = read_text(file, sample.parts["txt"]) if "txt" in sample.parts else facts.get("caption")
    except ValueError as error:
        return Pair(None, None, "", sample.key, f"the caption or JSON of the sample cannot be read ({error})")
    url = facts.get("url")
    return Pair(read_slice(file, sample.image), caption, url if isinstance(url, str) else "", sample.key)


def read_facts(file: IO[bytes], sample: Sample) -> dict[str, Any]:
    """Return the values of a sample's JSON, {} if it has none; raises ValueError if it cannot be read."""
    facts = json.loads(read_text(file, sample.parts["json"])) if "json" in sample.parts else {}
    return facts if isinstance(facts, dict) else {}


def read_text(file: IO[bytes], place: tuple[int, int]) -> str:
    """Return a member as text; raises ValueError if it is not UTF-8."""
    return read_slice(file, place).decode("utf-8")


def read_slice(file: IO[bytes], place: tuple[int, int]) -> bytes:
    """Return the bytes of a member at (offset, size)."""
    file.seek(place[0])
    return file.read(place[1])
