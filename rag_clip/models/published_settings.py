"""The settings that published weights were trained with, and whose settings a local file of weights has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}  # what open_clip takes where a tag is mute: OpenAI's
MOST_TAGS = 3


def complete(settings: Mapping[str, Any], quick_gelu: bool) -> dict[str, Any]:
    """Return the settings of a tag with open_clip's defaults for what it leaves open, and nothing else.

    `quick_gelu` is the activation of the model's own configuration.
    """
    values = {key: settings.get(key, default) for key, default in DEFAULTS.items()}
    exact = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return {"quick_gelu": bool(settings.get("quick_gelu")) or quick_gelu, **exact}


def split_local(given: str, tags: Mapping[str, Mapping[str, Any]]) -> tuple[str, Path] | None:
    """Read what follows NAME: as TAG@FILE or FILE; return the tag, empty without one, and the file.

    None where it is neither: no such file, and no known tag before an @. Raises ValueError for TAG@FILE without a file.
    """
    tag, at, file = given.partition("@")
    if at and _clean(tag) in tags:
        if not Path(file).is_file():
            raise ValueError(f"there is no file {file!r}")
        return _clean(tag), Path(file)
    if at and Path(file).is_file() and not Path(given).is_file():
        raise ValueError(f"no pretrained tag {tag!r}; before @ comes the tag whose settings the file has")
    return ("", Path(given)) if Path(given).is_file() else None


def settings_of_file(
    name: str, tag: str, tags: Mapping[str, Mapping[str, Any]], *, quick_gelu: bool
) -> Mapping[str, Any]:
    """Return the settings of a local file of NAME: those of `tag`, or without one those that all `tags` agree on.

    `quick_gelu` is the activation of NAME's own configuration. Raises ValueError with the choices where tags disagree.
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
    """List the tags by their settings, saying in what each group differs from another."""
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
