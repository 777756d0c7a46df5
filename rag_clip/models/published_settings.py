"""The settings that published weights were trained with, and which of them apply to a local file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_clip.files.regular import is_regular

DEFAULTS: Mapping[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}  # open_clip's defaults for what a tag leaves out; they are OpenAI's
MOST_TAGS = 3


def complete(settings: Mapping[str, Any], quick_gelu: bool) -> dict[str, Any]:
    """Return only the settings that matter here of a tag, with open_clip's defaults for those it leaves out.

    `quick_gelu` is whether the model's own configuration has QuickGELU.
    """
    values = {key: settings.get(key, default) for key, default in DEFAULTS.items()}
    exact = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return {"quick_gelu": bool(settings.get("quick_gelu")) or quick_gelu, **exact}


def split_local(given: str, tags: Mapping[str, Mapping[str, Any]]) -> tuple[str, Path] | None:
    """Parse the part of a specification after NAME: as TAG@FILE or FILE; return the tag ('' without) and the file.

    Returns None where it is neither. Raises ValueError for TAG@FILE with a missing file or an unknown tag.
    """
    tag, at, file = given.partition("@")
    if at and _clean(tag) in tags:
        if not is_regular(file):
            raise ValueError(f"there is no file {file!r}")
        return _clean(tag), Path(file)
    if at and is_regular(file) and not is_regular(given):
        raise ValueError(f"no pretrained tag {tag!r}; before @ comes the tag whose settings the file has")
    return ("", Path(given)) if is_regular(given) else None


def settings_of_file(
    name: str, tag: str, tags: Mapping[str, Mapping[str, Any]], *, quick_gelu: bool
) -> Mapping[str, Any]:
    """Return the settings for a local file of NAME: those of `tag`, or without a tag those that all `tags` share.

    `quick_gelu` is whether NAME's own configuration has QuickGELU. Raises ValueError, with the choices, where the tags
    differ.
    """
    groups: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for each, settings in tags.items():
        groups.setdefault(tuple(complete(settings, quick_gelu).items()), []).append(each)
    if tag:
        return complete(tags[tag], quick_gelu)
    if len(groups) > 1:
        raise ValueError(
            f"the weights published for {name} run with different settings, and a file does not say which are its own; "
            f"give {name}:TAG@FILE, with a TAG of the same settings: {_choices(groups)}"
        )
    return dict(next(iter(groups))) if groups else complete({}, quick_gelu)


def _choices(groups: Mapping[tuple[tuple[str, Any], ...], list[str]]) -> str:
    """Return the tags grouped by their settings, with the settings in which the groups differ."""
    facts = [dict(group) for group in groups]
    differing = [key for key in facts[0] if len({group[key] for group in facts}) > 1]
    listed = []
    for group, tags in zip(facts, groups.values(), strict=True):
        more = f" or {len(tags) - MOST_TAGS} more" if len(tags) > MOST_TAGS else ""
        listed.append(f"{', '.join(tags[:MOST_TAGS])}{more} ({', '.join(_say(key, group[key]) for key in differing)})")
    return "; ".join(listed)


def _say(key: str, value: Any) -> str:
    if key == "quick_gelu":
        return "QuickGELU" if value else "GELU"
    return f"{key} {', '.join(f'{number:.3g}' for number in value) if isinstance(value, tuple) else value}"


def _clean(tag: str) -> str:
    return tag.lower().replace("-", "_")
