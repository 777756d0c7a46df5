"""The matching module of patches or tokens that was learned for an encoder, read from its folder."""

from __future__ import annotations

from rag_clip.models.folder import AGAIN, MATCH, Match, read_match
from rag_clip.models.patch_match import PatchMatch
from rag_clip.models.token_match import TokenMatch, token_match_of
from rag_clip.models.towers import TwoTowers


def match_of(encoder: TwoTowers) -> Match | None:
    """Return the matching module that was learned for an encoder, or None if its folder has none.

    Raises ValueError for a damaged file, and for one that was learned for other weights.
    """
    match = None if encoder.folder is None else read_match(encoder.folder)
    if match is not None and match.weights != encoder.fingerprint.weights:
        raise ValueError(
            f"{encoder.folder}: {MATCH} was learned for the weights {match.weights[:12]}, and the model has "
            f"{encoder.fingerprint.weights[:12]}; {AGAIN}, or remove the file"
        )
    return match


def patch_match(encoder: TwoTowers) -> PatchMatch | None:
    """Return the matching of patches that was learned for an encoder, on its device, or None if it has none.

    Raises ValueError as `match_of`, and for tensors that do not fit the encoder.
    """
    match = match_of(encoder)
    if match is None or match.kind != "patches":
        return None
    names = ("projection", "hidden", "output", "beta")
    if set(match.tensors) != set(names):
        raise ValueError(f"{encoder.folder}: {MATCH} holds {', '.join(sorted(match.tensors))}; {AGAIN}")
    module = PatchMatch(*(match.tensors[name] for name in names))
    if module.projection.shape[1] != encoder.dim:
        raise ValueError(
            f"{encoder.folder}: {MATCH} is {module.projection.shape[1]} wide, the model {encoder.dim}; {AGAIN}"
        )
    return module.to(encoder.device).eval().requires_grad_(False)


def token_match(encoder: TwoTowers) -> TokenMatch | None:
    """Return the late interaction that was learned for an encoder, on its device, or None if it has none.

    Raises ValueError as `match_of`, and for tensors that do not fit the encoder.
    """
    match = match_of(encoder)
    if match is None or match.kind != "late":
        return None
    try:
        module = token_match_of(match.tensors)
    except ValueError as error:
        raise ValueError(f"{encoder.folder}: {MATCH} {error}; {AGAIN}") from error
    return module.to(encoder.device).eval().requires_grad_(False)
