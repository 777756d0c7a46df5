"""A page and a REST service over the files of one folder; needs the extra `web`."""

from rag_clip.web.app import create_app

__all__ = ["create_app"]
