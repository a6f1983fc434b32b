"""How token vectors become one vector of a text: what sentence-transformers keeps beside a model.

A folder of its has ``modules.json``: a transformer, a pooling, and perhaps a normalisation. Without it: the mean over a
text's tokens, normalised (Reimers and Gurevych 2019, section 3).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from fastserve_ray.errors import ModelError

PoolingMode = Literal["mean", "cls", "lasttoken", "max"]
MODULES_FILE = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
POOLING_FOLDER, NORMALIZE_FOLDER = "1_Pooling", "2_Normalize"
_OLD_KEYS: dict[str, PoolingMode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
}
"""In ``1_Pooling/config.json`` before version 5.3 of sentence-transformers; after it there is ``pooling_mode``."""


@dataclass(frozen=True)
class Pooling:
    """From token vectors to a text's vector."""

    mode: PoolingMode = "mean"
    normalizes: bool = True
    """To length 1."""
    max_length: int | None = None
    """Tokens of a text at most, where the model says so."""

    def save(self, folder: Path, dimensions: int) -> None:
        """Keep it in a model's folder, as sentence-transformers reads it; ``dimensions``: of a vector."""
        modules = [("0", "", "Transformer"), ("1", POOLING_FOLDER, "Pooling")]
        if self.normalizes:
            modules.append(("2", NORMALIZE_FOLDER, "Normalize"))
        flags = {key: mode == self.mode for key, mode in _OLD_KEYS.items()}
        for _, path, _ in modules[1:]:
            (folder / path).mkdir(exist_ok=True)
        _write(folder / POOLING_FOLDER / "config.json", {"word_embedding_dimension": dimensions, **flags})
        if self.max_length is not None:
            _write(folder / LENGTH_FILE, {"max_seq_length": self.max_length, "do_lower_case": False})
        types = "sentence_transformers.models."
        _write(
            folder / MODULES_FILE,
            [{"idx": int(name), "name": name, "path": path, "type": f"{types}{kind}"} for name, path, kind in modules],
        )


def read_pooling(reference: str | Path, revision: str | None = None) -> Pooling:
    """Of a model folder or hub id.

    Raises:
        ModelError: it has a module or pooling that no engine runs.
    """
    modules = _read(reference, MODULES_FILE, revision)
    if modules is None:
        return Pooling()
    kinds = {str(module["type"]).rpartition(".")[2]: str(module["path"]) for module in modules}
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        allowed = "Transformer, Pooling, Normalize"
        raise _not_run("this embedding model has a part that no engine runs", unknown[0], allowed)
    config = _read(reference, f"{kinds.get('Pooling', POOLING_FOLDER)}/config.json", revision) or {}
    length = _read(reference, LENGTH_FILE, revision) or {}
    return Pooling(_mode(config), "Normalize" in kinds, length.get("max_seq_length"))


def _mode(config: dict[str, Any]) -> PoolingMode:
    named = config.get("pooling_mode")
    modes = [named] if named else [key for key, is_on in config.items() if key.startswith("pooling_mode_") and is_on]
    modes = [_OLD_KEYS.get(mode, mode) for mode in modes]
    if not modes:
        return "mean"
    if len(modes) > 1 or modes[0] not in get_args(PoolingMode):
        raise _not_run("this embedding model pools in a way that no engine runs", " and ".join(modes), _allowed())
    return cast("PoolingMode", modes[0])


def _allowed() -> str:
    return "one of " + ", ".join(get_args(PoolingMode))


def _not_run(what: str, value: str, allowed: str) -> ModelError:
    return ModelError(what, value=value, allowed=allowed, key="model.base")


def _read(reference: str | Path, name: str, revision: str | None) -> Any:
    """The JSON file of this name; None where there is none."""
    from transformers.utils import cached_file

    try:
        path = cached_file(
            str(reference),
            name,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {name} ({error})", value=str(reference), key="model.base") from error


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
