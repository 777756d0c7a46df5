"""Controls for texts that are mixed in: random texts, as many per class and with the same weights.

A gain over `random_prompts` comes from which captions were retrieved, not from mixing in captions. A gain over
`waffle_prompts` comes from what the texts say, not from more texts with the class name. `shared_waffle_prompts` is
WaffleCLIP as published, which uses the class names only.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from rag_clip.data import Hit, Prompts, PromptText
from rag_clip.display import counted

LEAST_RANDOM_WORDS = 2
_CHARACTERS = string.ascii_lowercase + string.digits + "!#%&*+=?@^~"
_VOCABULARY = """
able acre again album amber angle apron arch autumn badge baker barn basin beam bench bold brave brick brief bright
broom bundle cabin calm candle canvas carbon cedar chalk chapter chest circle civil clever climb coast copper corner
cotton crisp crown daily damp dance debate deep diary double draft drift early easel echo elbow empty engine evening
fabric fair faith feather fence fiction first flame flat float fresh frost garden gentle ginger glad globe grain
grand gravel habit harbour hollow honest humble hurry idle inner island ivory jolly journal keen kettle kind ladder
lantern large late leather legal level linen little local logic loud lucky magnet major mellow merry middle mild
minor mirror modest motion narrow neat needle noble normal novel oak ocean often orbit paper parade pebble pencil
plain pocket polite portion prompt proud puzzle quick quiet random rapid ribbon ripe rough round rural sandal
scatter second shadow sharp shelf silent simple slender slow solid spare spiral spring steady stiff stone strict
summer supper swift table tender thick ticket timber tiny total tower trade tunnel urban usual velvet village
violin wagon warm weekly whisper wide willow window winter wise wonder yearly
"""
_WORDS = tuple(_VOCABULARY.split())


def random_prompts(like: Prompts, captions: Sequence[Hit], *, seed: int) -> Prompts:
    """Replace the captions of each class in `like` by as many random `captions`, without repeats within a class.

    The draw depends on the class name and the seed only. Raises ValueError where a class needs more captions than
    there are.
    """
    captions = [hit for hit in captions if hit.text.strip()]
    needed = max(sum(text.role == "context" for text in group) for group in like.texts)
    if needed > len(captions):
        raise ValueError(f"a class needs {needed} random captions, found {len(captions)}; give more captions")
    texts = tuple(
        _replaced(group, captions, random.Random(f"{seed}:{name}"))
        for name, group in zip(like.labels.names, like.texts, strict=True)
    )
    settings = {**like.recorded.settings, "seed": seed}
    return Prompts(like.labels, texts, {**like.provenance, "method": "random", "settings": settings})


def _replaced(group: Sequence[PromptText], captions: Sequence[Hit], draw: random.Random) -> tuple[PromptText, ...]:
    drawn = iter(draw.sample(captions, sum(text.role == "context" for text in group)))
    return tuple(text if text.role == "anchor" else _caption(text, next(drawn)) for text in group)


def _caption(text: PromptText, hit: Hit) -> PromptText:
    return replace(text, text=hit.text, source=hit.source, evidence=hit.id, score=None, rank=None)


def waffle_prompts(like: Prompts, *, seed: int) -> Prompts:
    """Replace the context texts of each class in `like` by its first anchor with random words or characters.

    Roth et al., 2023, "Waffling around for Performance" (ICCV 2023, arXiv 2306.07282): "a photo of a fox, which has
    brick early ladder." and "a photo of a fox, which has q7=a, 0xk~.", in turn. Different from the paper: each text has
    as many words as the one it replaces, and each class has its own draw, as the replaced texts differ between classes
    too. The draw depends on the class name and the seed only. A class without anchors uses its name.
    """
    texts = tuple(
        tuple(_waffled(group, name, random.Random(f"{seed}:{name}")))
        for name, group in zip(like.labels.names, like.texts, strict=True)
    )
    settings = {**like.recorded.settings, "seed": seed}
    return Prompts(like.labels, texts, {**like.provenance, "method": "waffle", "settings": settings})


def shared_waffle_prompts(like: Prompts, *, seed: int, pairs: int = 15) -> Prompts:
    """Give all classes of `like` the same `pairs` of random words and random characters, and no other text.

    Roth et al., 2023 (arXiv 2306.07282), as in their code: "A photo of a fox, which has brick." and "A photo of a fox,
    which has q7=a.", with the mean of the cosines (see classifiers.zero_shot). A text has as many words as a class name
    on average, each cut to the average word length. Characters come in as many groups; the length of a group is the
    average length of a name's longest word divided by the number of groups, plus one. The lists of words and characters
    are ours. Raises ValueError for no pair.
    """
    if pairs < 1:
        raise ValueError(f"{counted(pairs, 'pair')} of words and characters; draw at least 1")
    draw = random.Random(seed)
    names = [name.replace("_", " ") for name in like.labels.names]
    split = [name.split() for name in names]
    groups = max(1, round(fmean(map(len, split))))
    letters = round(fmean(fmean(map(len, words)) for words in split))
    longest = math.ceil(fmean(max(map(len, words)) for words in split))
    noise: list[str] = []
    for _ in range(pairs):
        noise.append(" ".join(word[:letters] for word in draw.choices(_WORDS, k=groups)))
        noise.append(", ".join("".join(draw.choices(_CHARACTERS, k=longest // groups + 1)) for _ in range(groups)))
    texts = tuple(
        tuple(
            PromptText(f"A photo of a {name}, which has {words}.", 1 / len(noise), source="waffle") for words in noise
        )
        for name in names
    )
    settings = {**like.recorded.settings, "seed": seed, "pairs": pairs}
    facts = {"method": "waffle_shared", "settings": settings, "average": "cosines"}
    return Prompts(like.labels, texts, {**like.provenance, **facts})


def _waffled(group: Sequence[PromptText], name: str, draw: random.Random) -> Iterator[PromptText]:
    filled = next((text.text for text in group if text.role == "anchor"), name)
    frame = f"{filled.rstrip(' .。')}, which has"
    place = 0
    for text in group:
        if text.role == "anchor":
            yield text
            continue
        count = max(LEAST_RANDOM_WORDS, len(text.text.split()) - len(frame.split()))
        noise = _random_characters(count, draw) if place % 2 else " ".join(draw.choices(_WORDS, k=count))
        place += 1
        yield PromptText(f"{frame} {noise}.", text.weight, "context", "waffle", f"waffle#{place}")


def _random_characters(count: int, draw: random.Random) -> str:
    return ", ".join("".join(draw.choices(_CHARACTERS, k=draw.randint(3, 6))) for _ in range(count))
