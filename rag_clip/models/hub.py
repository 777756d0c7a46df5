"""Files from the Hugging Face hub: the local cache first, then one attempt to download, without retries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TIMEOUT_SECONDS = 10


def fetch(repository: str, filenames: Sequence[str]) -> Path:
    """Return the path of the first of `filenames` that the repository has, from the cache if possible.

    A cached file is used without checking for a newer one. Raises OSError naming what was tried.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    for filename in filenames:
        cached = huggingface_hub.try_to_load_from_cache(repository, filename)
        if isinstance(cached, str):
            return Path(cached)
    for filename in filenames:
        try:
            # hf_hub_download retries a failed look-up for most of a minute; this fails at once.
            huggingface_hub.get_hf_file_metadata(
                huggingface_hub.hf_hub_url(repository, filename), timeout=TIMEOUT_SECONDS
            )
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub's client raises its own, its transport's and its cache's exceptions
            reason = (str(error).splitlines() or [""])[0]
            raise OSError(
                f"the hub's repository {repository!r} cannot be read ({type(error).__name__}: {reason})"
            ) from error
        return Path(huggingface_hub.hf_hub_download(repository, filename))
    raise OSError(f"the hub's repository {repository!r} has none of {', '.join(filenames)}")
