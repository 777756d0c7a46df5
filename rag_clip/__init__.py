"""Turn class names and a corpus of captions into the best CLIP classifier those names can have.

These are the names that most users need; each is imported from its home when it is first used, so that
`import rag_clip` loads neither torch nor an engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the homes of the names again, for type checkers and editors
    from rag_clip.captions.shards import ShardFolder as ShardFolder
    from rag_clip.captions.sources.columns import Columns as Columns
    from rag_clip.classifiers.hubs import HubBank as HubBank
    from rag_clip.classifiers.match import Scoring as Scoring
    from rag_clip.classifiers.novelty import OpenWorld as OpenWorld
    from rag_clip.classifiers.reuse import Reuse as Reuse
    from rag_clip.data import Hit as Hit
    from rag_clip.data import LabelSet as LabelSet
    from rag_clip.data import Prompts as Prompts
    from rag_clip.data import PromptText as PromptText
    from rag_clip.data import Support as Support
    from rag_clip.errors import RagClipError as RagClipError
    from rag_clip.evaluation.shot_runs import Heads as Heads
    from rag_clip.files.evidence import ClassEvidence as ClassEvidence
    from rag_clip.files.evidence import read_evidence as read_evidence
    from rag_clip.files.labels import read_labels as read_labels
    from rag_clip.files.labels import write_labels as write_labels
    from rag_clip.files.prompts import read_prompts as read_prompts
    from rag_clip.files.prompts import write_prompts as write_prompts
    from rag_clip.files.support import merge_support_files as merge_support_files
    from rag_clip.files.support import read_support as read_support
    from rag_clip.images.opening import Images as Images
    from rag_clip.models.open_clip import load_encoder as load_encoder
    from rag_clip.pipelines.adapt import Training as Training
    from rag_clip.pipelines.adapt import adapt_encoder as adapt_encoder
    from rag_clip.pipelines.captions import build_index as build_index
    from rag_clip.pipelines.classify import classify as classify
    from rag_clip.pipelines.discover import Naming as Naming
    from rag_clip.pipelines.discover import discover as discover
    from rag_clip.pipelines.enhance import enhance as enhance
    from rag_clip.pipelines.evaluate import evaluate as evaluate
    from rag_clip.pipelines.evaluate_captions import evaluate_captions as evaluate_captions
    from rag_clip.pipelines.evaluate_masks import evaluate_masks as evaluate_masks
    from rag_clip.pipelines.evaluate_retrieval import evaluate_retrieval as evaluate_retrieval
    from rag_clip.pipelines.explain import Beside as Beside
    from rag_clip.pipelines.explain import explain as explain
    from rag_clip.pipelines.explore import explore_prompts as explore_prompts
    from rag_clip.pipelines.explore_names import explore_names as explore_names
    from rag_clip.pipelines.export import export_classifier as export_classifier
    from rag_clip.pipelines.heads import learn_prompts as learn_prompts
    from rag_clip.pipelines.heads import prepare_head as prepare_head
    from rag_clip.pipelines.images import index_images as index_images
    from rag_clip.pipelines.merge import AlphaSearch as AlphaSearch
    from rag_clip.pipelines.merge import merge_models as merge_models
    from rag_clip.pipelines.plan import Machines as Machines
    from rag_clip.pipelines.plan import plan_index as plan_index
    from rag_clip.pipelines.running import Running as Running
    from rag_clip.pipelines.search import search as search
    from rag_clip.pipelines.segment import Masks as Masks
    from rag_clip.pipelines.segment import segment_images as segment_images
    from rag_clip.pipelines.support_corrections import support_from_corrections as support_from_corrections
    from rag_clip.pipelines.support_evidence import support_evidence as support_evidence
    from rag_clip.pipelines.support_retrieve import retrieve_support as retrieve_support
    from rag_clip.pipelines.support_shots import ShotSettings as ShotSettings
    from rag_clip.pipelines.support_shots import support_from_shots as support_from_shots
    from rag_clip.pipelines.support_synthesise import synthesise_support as synthesise_support
    from rag_clip.pipelines.unlabelled import Unlabelled as Unlabelled
    from rag_clip.progress import ProgressEvent as ProgressEvent
    from rag_clip.progress import silent as silent
    from rag_clip.prompts.recipe import Recipe as Recipe
    from rag_clip.prompts.recipe import load_recipe as load_recipe
    from rag_clip.protocols import Encoder as Encoder
    from rag_clip.store import open_store as open_store
    from rag_clip.store.queries import Query as Query
    from rag_clip.support.concentrate import Concentration as Concentration
    from rag_clip.support.painters import load_painter as load_painter
    from rag_clip.support.retrieved import ImageSearch as ImageSearch
    from rag_clip.support.synthesised import Synthesis as Synthesis

    __version__: str

_HOMES = {
    "AlphaSearch": "rag_clip.pipelines.merge",
    "Beside": "rag_clip.pipelines.explain",
    "ClassEvidence": "rag_clip.files.evidence",
    "Columns": "rag_clip.captions.sources.columns",
    "Concentration": "rag_clip.support.concentrate",
    "Encoder": "rag_clip.protocols",
    "Heads": "rag_clip.evaluation.shot_runs",
    "Hit": "rag_clip.data",
    "HubBank": "rag_clip.classifiers.hubs",
    "ImageSearch": "rag_clip.support.retrieved",
    "Images": "rag_clip.images.opening",
    "LabelSet": "rag_clip.data",
    "Machines": "rag_clip.pipelines.plan",
    "Masks": "rag_clip.pipelines.segment",
    "Naming": "rag_clip.pipelines.discover",
    "OpenWorld": "rag_clip.classifiers.novelty",
    "ProgressEvent": "rag_clip.progress",
    "PromptText": "rag_clip.data",
    "Prompts": "rag_clip.data",
    "Query": "rag_clip.store.queries",
    "RagClipError": "rag_clip.errors",
    "Recipe": "rag_clip.prompts.recipe",
    "Reuse": "rag_clip.classifiers.reuse",
    "Running": "rag_clip.pipelines.running",
    "Scoring": "rag_clip.classifiers.match",
    "ShardFolder": "rag_clip.captions.shards",
    "ShotSettings": "rag_clip.pipelines.support_shots",
    "Support": "rag_clip.data",
    "Synthesis": "rag_clip.support.synthesised",
    "Training": "rag_clip.pipelines.adapt",
    "Unlabelled": "rag_clip.pipelines.unlabelled",
    "adapt_encoder": "rag_clip.pipelines.adapt",
    "build_index": "rag_clip.pipelines.captions",
    "classify": "rag_clip.pipelines.classify",
    "discover": "rag_clip.pipelines.discover",
    "enhance": "rag_clip.pipelines.enhance",
    "evaluate": "rag_clip.pipelines.evaluate",
    "evaluate_captions": "rag_clip.pipelines.evaluate_captions",
    "evaluate_masks": "rag_clip.pipelines.evaluate_masks",
    "evaluate_retrieval": "rag_clip.pipelines.evaluate_retrieval",
    "explain": "rag_clip.pipelines.explain",
    "explore_names": "rag_clip.pipelines.explore_names",
    "explore_prompts": "rag_clip.pipelines.explore",
    "export_classifier": "rag_clip.pipelines.export",
    "index_images": "rag_clip.pipelines.images",
    "learn_prompts": "rag_clip.pipelines.heads",
    "load_encoder": "rag_clip.models.open_clip",
    "load_painter": "rag_clip.support.painters",
    "load_recipe": "rag_clip.prompts.recipe",
    "merge_models": "rag_clip.pipelines.merge",
    "merge_support_files": "rag_clip.files.support",
    "open_store": "rag_clip.store",
    "plan_index": "rag_clip.pipelines.plan",
    "prepare_head": "rag_clip.pipelines.heads",
    "read_evidence": "rag_clip.files.evidence",
    "read_labels": "rag_clip.files.labels",
    "read_prompts": "rag_clip.files.prompts",
    "read_support": "rag_clip.files.support",
    "retrieve_support": "rag_clip.pipelines.support_retrieve",
    "search": "rag_clip.pipelines.search",
    "segment_images": "rag_clip.pipelines.segment",
    "silent": "rag_clip.progress",
    "support_evidence": "rag_clip.pipelines.support_evidence",
    "support_from_corrections": "rag_clip.pipelines.support_corrections",
    "support_from_shots": "rag_clip.pipelines.support_shots",
    "synthesise_support": "rag_clip.pipelines.support_synthesise",
    "write_labels": "rag_clip.files.labels",
    "write_prompts": "rag_clip.files.prompts",
}

__all__ = [
    "AlphaSearch",
    "Beside",
    "ClassEvidence",
    "Columns",
    "Concentration",
    "Encoder",
    "Heads",
    "Hit",
    "HubBank",
    "ImageSearch",
    "Images",
    "LabelSet",
    "Machines",
    "Masks",
    "Naming",
    "OpenWorld",
    "ProgressEvent",
    "PromptText",
    "Prompts",
    "Query",
    "RagClipError",
    "Recipe",
    "Reuse",
    "Running",
    "Scoring",
    "ShardFolder",
    "ShotSettings",
    "Support",
    "Synthesis",
    "Training",
    "Unlabelled",
    "__version__",
    "adapt_encoder",
    "build_index",
    "classify",
    "discover",
    "enhance",
    "evaluate",
    "evaluate_captions",
    "evaluate_masks",
    "evaluate_retrieval",
    "explain",
    "explore_names",
    "explore_prompts",
    "export_classifier",
    "index_images",
    "learn_prompts",
    "load_encoder",
    "load_painter",
    "load_recipe",
    "merge_models",
    "merge_support_files",
    "open_store",
    "plan_index",
    "prepare_head",
    "read_evidence",
    "read_labels",
    "read_prompts",
    "read_support",
    "retrieve_support",
    "search",
    "segment_images",
    "silent",
    "support_evidence",
    "support_from_corrections",
    "support_from_shots",
    "synthesise_support",
    "write_labels",
    "write_prompts",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home (PEP 562), once; raises AttributeError for other names."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("rag-clip")
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'rag_clip' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, those not imported yet too."""
    return sorted({*globals(), *__all__})
