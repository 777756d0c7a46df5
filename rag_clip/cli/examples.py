"""An example of each verb, shown under its help and when an option is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cyclopts import App

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed (the message says why), 2 the command was not understood, "
    "3 done, but some rows failed, 130 interrupted (run the same command again to continue)."
)
EXAMPLES: Mapping[str, str] = {
    "index build": "rag-clip index build captions.parquet --index captions-index --model demo",
    "index embed": "rag-clip index embed captions.parquet --shards shards --model demo --part 1/2",
    "index load": "rag-clip index load shards --index captions-index",
    "index info": "rag-clip index info captions-index",
    "index check": "rag-clip index check captions-index --queries 200 --k 100",
    "index copy": "rag-clip index copy captions-index http://localhost:6333/captions",
    "index snapshot": "rag-clip index snapshot captions-index -o captions.snapshot",
    "index restore": "rag-clip index restore captions.snapshot --index restored-index",
    "index plan": "rag-clip index plan --captions 1e8 --model ViT-L-14:openai",
    "index images": "rag-clip index images pairs.tar --index images-index --model demo",
    "index download": "rag-clip index download addresses.parquet -o images",
    "enhance": "rag-clip enhance labels.txt --index captions-index --model demo -o prompts.parquet",
    "classify": "rag-clip classify images.parquet --prompts prompts.parquet --model demo -o predictions.parquet",
    "heads": "rag-clip heads",
    "learn": "rag-clip learn support.parquet --prompts prompts.parquet --model demo -o learned.safetensors",
    "evaluate": "rag-clip evaluate labelled.parquet --prompts prompts.parquet --model demo -o results.parquet",
    "explain": "rag-clip explain 'tabby cat' --prompts prompts.parquet --model demo",
    "discover": "rag-clip discover images.parquet --index captions-index -o labels.toml",
    "segment": "rag-clip segment images.parquet --prompts prompts.parquet --model local-dir:pacl -o masks.parquet",
    "adapt": "rag-clip adapt pairs.parquet --model demo --lock image --steps 100 -o adapted",
    "merge": "rag-clip merge adapted --alpha 0.3 -o merged",
    "export": "rag-clip export prompts.parquet --model demo -o classifier.safetensors",
    "search": "rag-clip search captions-index --text 'red flag' --limit 3",
    "serve": "rag-clip serve rag-clip-demo --model demo",
    "support shots": "rag-clip support shots labelled.parquet --labels labels.txt -k 4 --model demo -o support.parquet",
    "support retrieve": (
        "rag-clip support retrieve prompts.parquet --index images-index --model demo -o support.parquet"
    ),
    "support corrections": (
        "rag-clip support corrections corrections.csv --images images.parquet --prompts prompts.parquet "
        "-o corrected.parquet"
    ),
    "support merge": "rag-clip support merge first.parquet second.parquet -o support.parquet",
    "support synthesise": (
        "rag-clip support synthesise prompts.parquet --painter demo --model demo -o support.parquet"
    ),
    "support evidence": "rag-clip support evidence shots.parquet found.parquet -o evidence.safetensors",
    "demo": "rag-clip demo --out rag-clip-demo",
}


def verbs(app: App, *names: str) -> Iterator[tuple[str, App]]:
    """Yield the name and the app of every verb, also of those under groups."""
    for name in app:
        if not name.startswith("-"):
            under = app[name]
            inner = list(verbs(under, *names, name))
            yield from inner or [(" ".join((*names, name)), under)]


def example_of(verb: str) -> str:
    """Return the text under the help of a verb: its example and the exit codes."""
    return f"Example: {EXAMPLES[verb]}\n\n{EXIT_CODES}"
