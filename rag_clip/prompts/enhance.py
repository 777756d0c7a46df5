"""The query layer: from class names to weighted texts, by a recipe, with the evidence for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from rag_clip.data import LabelSet, Prompts
from rag_clip.models.remembering import remembering
from rag_clip.progress import Progress
from rag_clip.prompts.contrast import KNOWN_WEIGHT
from rag_clip.prompts.control import random_prompts, shared_waffle_prompts, waffle_prompts
from rag_clip.prompts.described import described_texts
from rag_clip.prompts.evidence import Gathered, find_captions, trusted_captions
from rag_clip.prompts.knowledge.names import NameMatch, nearest_classes
from rag_clip.prompts.knowledge.sentences import Sentences, read_sentences
from rag_clip.prompts.mixed import Texts, mix
from rag_clip.prompts.naming import name_classes
from rag_clip.prompts.recipe import Recipe, Templates, load_recipe
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.synonyms import synonym_prompts
from rag_clip.prompts.templates import GENERAL, choose_templates, template_prompts
from rag_clip.protocols import Encoder
from rag_clip.store import Store

Control = Literal["random", "waffle", "waffle_shared"]
LARGEST_SAMPLE = 10_000
NAMES_IN_A_NOTE = 5


@dataclass(frozen=True, slots=True)
class _Found:
    """The texts from the sources of a recipe.

    anchors, contexts: the anchors, and the context texts of each source.
    notes: what a user should know.
    without_captions: number of classes without captions in the store.
    untrusted: number of classes with captions, none of which was trusted.
    gathered: the captions of the index; None for a recipe that uses none.
    """

    anchors: Prompts
    contexts: tuple[Texts, ...]
    notes: tuple[str, ...]
    without_captions: int
    untrusted: int
    gathered: Gathered | None


def enhance(
    labels: LabelSet,
    *,
    encoder: Encoder,
    recipe: Recipe | None = None,
    store: Store | None = None,
    control: Control | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Prompts:
    """Turn a label set into prompts with a recipe (see prompts.recipe).

    labels: the classes.
    encoder: the one that the index was built with; for lexical search any will do.
    recipe: by default the recipe named "default".
    store: the index, for recipes that use captions.
    control: replaces the texts that the recipe mixes in by as many random captions of the store (`random`) or random
        words (`waffle`), with the same weights; `waffle_shared` is WaffleCLIP as published.
    seed: of the control.
    progress: collects seconds per stage, and passes progress events on.

    The vectors of texts that were encoded on the way come with the prompts (`Prompts.encoded`). Provenance holds the
    recipe, the number of classes without captions, the number of classes whose captions were not trusted, what was
    decided about the names under `known` (see prompts.known), and notes for the user, such as names that a file does
    not have. Raises ValueError for a recipe that needs a store without one, a store without captions or with vectors of
    another encoder, and a control (other than `waffle_shared`) for a recipe that mixes in no texts.
    """
    recipe, progress = recipe or load_recipe("default"), progress or Progress()
    _check_needs(recipe, store, control)
    prompts = _enhance(labels, recipe, encoder, store, progress, {})
    if control:
        with progress.stage("sample"):
            prompts = control_prompts(prompts, control, store=store, seed=seed)
    return prompts


def enhance_rivals(
    labels: LabelSet, *, encoder: Encoder, recipe: Recipe, store: Store | None = None, progress: Progress | None = None
) -> dict[str, Prompts]:
    """Return the prompts that images choose among, by name: those of `rival_recipes`, retrieved and encoded once.

    The parameters and errors are those of `enhance`.
    """
    _check_needs(recipe, store, None)
    encoder, progress, captions = remembering(encoder)[0], progress or Progress(), dict[bool, Texts]()
    rivals = rival_recipes(recipe, labels)
    return {name: _enhance(labels, rival, encoder, store, progress, captions) for name, rival in rivals.items()}


def _enhance(
    labels: LabelSet,
    recipe: Recipe,
    encoder: Encoder,
    store: Store | None,
    progress: Progress,
    captions: dict[bool, Texts],
) -> Prompts:
    """Return the prompts of a recipe.

    captions: those that recipes which differ in trust alone have found, by `may_drop_names`; added to.
    """
    encoder, memory = remembering(encoder)
    found = _find_texts(labels, recipe, encoder, store, progress, captions)
    prompts = mix(found.anchors, *found.contexts)
    facts = {
        "encoder": asdict(encoder.fingerprint),
        "method": recipe.name,
        "settings": recipe.document(),
        "index": store.location if store and recipe.needs_index else "",
        "without_captions": found.without_captions,
        "untrusted": found.untrusted,
        "notes": list(found.notes),
    }
    if recipe.described and recipe.described.average == "cosines":
        facts["average"] = "cosines"
    if found.gathered and (names := found.gathered.names):
        unknown = [name for name, known in zip(labels.names, names.known.tolist(), strict=True) if not known]
        facts["known"] = {
            "share": names.share,
            "chosen": "captions" if not names.known.any() else "both" if unknown else "names",
            "unknown": unknown if names.known.any() else [],
            "templates": list(choose_templates(labels, found.gathered.templates)),
        }
    encoded = memory.encoded(text.text for group in prompts.texts for text in group)
    return replace(prompts, provenance=facts, encoded=encoded)


def rival_recipes(recipe: Recipe, labels: LabelSet) -> dict[str, Recipe]:
    """Return the recipes that images choose among: templates alone, and the recipe, by name.

    A recipe in which captions decide which names the encoder knows is three: as they decide, "names" as if it knew all,
    and "captions" as if it knew none.
    """
    retrieved = recipe.retrieved
    sets = {"templates": Recipe("templates", templates=recipe.templates)}
    if retrieved is None or retrieved.trust != "known":
        return sets | ({recipe.name: recipe} if recipe.retrieved or recipe.described or recipe.synonyms else {})
    ensemble = recipe.templates.choose() or labels.templates or GENERAL
    return {
        "templates": Recipe("templates", templates=Templates(texts=ensemble)),
        "names": replace(recipe, name="names", retrieved=replace(retrieved, trust="names")),
        "captions": replace(recipe, name="captions", retrieved=replace(retrieved, trust="evidence")),
        recipe.name: recipe,
    }


def control_prompts(prompts: Prompts, control: Control, *, store: Store | None = None, seed: int = 0) -> Prompts:
    """Replace the texts that are mixed in by random captions of the store or by random words.

    `waffle_shared` replaces all texts by random words that all classes share.
    Raises ValueError for an unknown control, and for random captions without a store.
    """
    _check_control(control, store)
    if control == "waffle_shared":
        return shared_waffle_prompts(prompts, seed=seed)
    if control == "waffle" or store is None:
        return waffle_prompts(prompts, seed=seed)
    needed = sum(text.role == "context" for group in prompts.texts for text in group)
    captions = store.sample(min(needed, LARGEST_SAMPLE, store.count()), seed) if needed else []
    return random_prompts(prompts, captions, seed=seed)


def _find_texts(
    labels: LabelSet,
    recipe: Recipe,
    encoder: Encoder,
    store: Store | None,
    progress: Progress,
    captions: dict[bool, Texts],
) -> _Found:
    templates, known = recipe.templates.choose(), labels
    contexts: list[Texts] = []
    notes: list[str] = []
    alone: list[str] = []
    untrusted: list[str] = []
    named = gathered = None
    if recipe.synonyms and store:
        with progress.stage("count names"):
            named = name_classes(labels, recipe.synonyms, encoder=encoder, store=store, report=progress.report)
        known, notes = named.labels, [*named.notes]
    if recipe.retrieved and store:
        whole = recipe.retrieved.may_drop_names
        if whole not in captions:
            captions[whole] = find_captions(
                known, encoder=encoder, store=store, retrieval=recipe.retrieved, progress=progress
            )
        every = captions[whole]
        gathered = trusted_captions(
            every, known, encoder=encoder, retrieval=recipe.retrieved, templates=templates, progress=progress
        )
        templates = gathered.templates
        alone = [name for name, texts in zip(labels.names, every, strict=True) if not texts]
        untrusted = [
            name for name, texts, kept in zip(labels.names, every, gathered.texts, strict=True) if texts and not kept
        ]
        contexts.append(gathered.texts)
        notes += [*_decision(gathered, recipe.retrieved, labels), *_captionless(alone, untrusted)]
    anchors = (
        synonym_prompts(labels, named.report, templates=templates, use=recipe.synonyms.use)
        if recipe.synonyms and named
        else template_prompts(labels, templates=templates)
    )
    if recipe.described:
        with progress.stage("read descriptions"):
            files = [read_sentences(path) for path in recipe.described.files]
            described = described_texts(known, files, weight=recipe.described.weight, templates=templates)
        contexts.append(described.texts)
        for file, match in zip(files, described.matches, strict=True):
            notes += _unmatched(file, match, labels)
    return _Found(anchors, tuple(contexts), tuple(notes), len(alone), len(untrusted), gathered)


def _check_control(control: Control, store: Store | None) -> None:
    if control not in get_args(Control):
        raise ValueError(f"unknown control {control!r}; known are {', '.join(get_args(Control))}")
    if control == "random" and store is None:
        raise ValueError("the random control looks for captions and needs an index; give one, or use 'waffle'")


def _check_needs(recipe: Recipe, store: Store | None, control: Control | None) -> None:
    if store is None and recipe.needs_index:
        raise ValueError(
            f"recipe {recipe.name!r} looks for captions and needs an index; give one, or use recipe 'templates'"
        )
    if control:
        _check_control(control, store)
    if control and control != "waffle_shared" and not (recipe.retrieved or recipe.described):
        raise ValueError(
            f"recipe {recipe.name!r} mixes no texts into its templates, so there is nothing to control; "
            "give one with captions or descriptions"
        )


def _unmatched(file: Sentences, match: NameMatch, labels: LabelSet) -> Iterator[str]:
    if match.unmatched_labels:
        yield f"{file.source} describes no {_some(match.unmatched_labels)}"
    if match.unmatched_keys:
        near = nearest_classes(match.unmatched_keys, labels)
        yield f"{file.source} has {_some(match.unmatched_keys)}, not in the label set{f' ({near})' if near else ''}"


def _decision(gathered: Gathered, retrieval: Retrieval, labels: LabelSet) -> Iterator[str]:
    if gathered.names is None:
        return
    share, known = gathered.names.share, gathered.names.known.tolist()
    weight = min(retrieval.weight, KNOWN_WEIGHT)
    beside = f"captions weigh {weight:g} beside an ensemble of templates"
    if all(known):
        yield f"the encoder knows these names ({share:.2f}): {beside}"
        return
    evidence = f"captions weigh up to {retrieval.weight:g}, each class by its own evidence"
    if not any(known):
        yield f"the encoder does not know these names well ({share:.2f}): {evidence}"
        return
    unknown = [name for name, each in zip(labels.names, known, strict=True) if not each]
    yield (
        f"the encoder knows {sum(known)} of {len(known)} names ({share:.2f}): {beside}; of {_some(unknown)}, {evidence}"
    )


def _captionless(alone: Sequence[str], untrusted: Sequence[str]) -> Iterator[str]:
    if alone:
        yield (
            f"no usable caption names {_some(alone)}, so templates keep their weight; index captions that do, or "
            "give synonyms in the label file"
        )
    if untrusted:
        yield (
            f"the captions of {_some(untrusted)} are too few, or fit other classes as well, and were not trusted, so "
            "templates keep their weight; index more captions, or mix in all that are found with --recipe repe"
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:NAMES_IN_A_NOTE])
    return f"{len(names)} classes ({shown}, ...)" if len(names) > NAMES_IN_A_NOTE else shown
