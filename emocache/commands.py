"""What can be said after ``emocache``: the word, the script that it calls, and what that does."""

import re

COMMANDS = {
    "demo": ("emocache.demo", "run the whole pipeline on the sample that comes along"),
    "new": ("configs.new", "look at your files, and write a profile for them"),
    "use": ("configs.use", "choose the profile that all commands take"),
    "show": ("configs.show", "check a profile, and print it with all that it leaves out"),
    "repro": ("emocache.repro", "run every step of the pipeline that is not up to date"),
    "stages": ("emocache.stages", "note what code each step of the pipeline runs"),
    "manifest": ("extract.manifest", "the dataset's own format becomes one table of clips"),
    "extract": ("extract.run", "run the encoders once over every clip"),
    "check": ("extract.check", "look at every clip once, before anything expensive"),
    "mend-torchaudio": (
        "extract.mend_torchaudio",
        "make torchaudio importable beside a torch that it was not built for",
    ),
    "inputs": ("heads.inputs", "note what each head reads"),
    "pretrain": ("heads.pretrain", "train a head's network without labels"),
    "train": ("heads.train", "train a head in folds, and predict every unit"),
    "search": ("heads.search", "search a head's settings"),
    "layers": ("heads.layers", "what each layer of an encoder says"),
    "explain": ("heads.explain", "why this answer: clips, seconds, frames, words"),
    "explain-fusion": ("fusion.explain", "why this fused answer: heads, and inputs taken from all of them"),
    "stack": ("fusion.stack", "fuse the heads' predictions, measure, report"),
    "audit": ("fusion.audit", "look for leaks"),
    "bundle": ("fusion.bundle", "put the trained stack into one folder"),
    "page": ("fusion.page", "a page in the browser: drop a clip, see what it says and why"),
    "serve": ("fusion.serve", "the same for programs, over HTTP"),
    "live": ("fusion.live", "emotion over time: a film, a folder that fills, a camera, a pipe"),
    "export": ("fusion.export", "write the bundle's heads and fusion as ONNX"),
    "card": ("fusion.card", "write the bundle's model card again"),
    "predict": ("fusion.predict", "predict the emotion of new clips"),
    "info": ("cache.info", "what a store holds"),
    "verify": ("cache.verify", "check every value of a store, and repair it"),
    "convert": ("cache.convert", "copy a store into the other format, or without what is dead"),
    "export-store": ("cache.export", "write a store for other programs"),
    "ingest": ("cache.ingest", "features that others computed become a store"),
    "map": ("cache.map", "draw a store in two dimensions"),
    "unpickle": ("cache.unpickle", "take arrays out of a pickle, and run nothing of it"),
}
ROOMS = {  # titles of the help, by the folder of the scripts
    "emocache": "the whole",
    "configs": "profiles",
    "extract": "from media to features",
    "heads": "from features to predictions",
    "fusion": "from predictions to one answer",
    "cache": "stores of features",
}
_WORDS = {module: word for word, (module, _) in COMMANDS.items()}
_EXTRA = re.compile(r"pip install -e '?\.\[(\w+)\]'?")
_SCRIPT = re.compile(r"python\s(\w+)/(\w+)\.py\b")


def as_typed(text: str) -> str:
    """A text that names scripts (``python heads/train.py``), as one says it with the command: ``emocache train``."""

    def word(found: re.Match[str]) -> str:
        module = f"{found[1]}.{found[2]}"
        return f"emocache {_WORDS[module]}" if module in _WORDS else found[0]

    text = _EXTRA.sub(r"pip install 'emocache[\1]'", _SCRIPT.sub(word, text))
    return re.sub(r"\bdvc repro\b", "emocache repro", text)
