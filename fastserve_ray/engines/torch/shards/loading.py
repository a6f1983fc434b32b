"""One rank's share of a model folder, read from the safetensors files without the rest.

The model is built without memory, cut, and filled: of a tensor that is cut only this rank's rows or columns are read.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from fastserve_ray.engines.torch.shards.cutting import Home, cut_model
from fastserve_ray.engines.torch.shards.plan import plan_for
from fastserve_ray.errors import ModelError
from fastserve_ray.models.compressed import is_compressed, place_layers, read_info
from fastserve_ray.models.loading import load_tokenizer, read_config
from fastserve_ray.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastserve_ray.engines.torch.shards.collectives import Collectives

_BUILDING = Lock()
"""What keeps transformers from drawing weights replaces functions of torch for a moment, in all threads."""
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


def load_share(folder: str | Path, collectives: Collectives, *, dtype: str = "auto") -> tuple[Any, Any]:
    """This rank's share of the causal LM in ``folder``, and the tokenizer.

    Args:
        folder: as `save_pretrained` or the compress stage wrote it; not a hub id.
        dtype: type of the weights that are not int8; "auto" keeps the type they are stored in.

    Raises:
        ModelError: there is no such folder, or it lacks weights.
        EngineError: the model cannot be cut into so many shards.
    """
    with opened_share(folder, collectives, dtype=dtype) as share:
        share.fill(list(share.homes))
    return share.model.eval(), load_tokenizer(folder)


@contextmanager
def opened_share(folder: str | Path, collectives: Collectives, *, dtype: str = "auto") -> Iterator[OpenedShare]:
    """A share whose weights are read when they are wanted, inside ``with``.

    Raises: as `load_share`.
    """
    place = Path(folder)
    with Checkpoint(place) as checkpoint:
        plan_for(read_model_config(place).model_type)
        model = _empty_model(place, dtype, checkpoint)
        names = checkpoint.names_in(model)
        tied = _tied(model)
        homes = cut_model(model, collectives)
        partners = tied | {source: target for target, source in tied.items()}
        missing = [name for name in homes if name not in names and partners.get(name) not in names]
        if missing:
            raise ModelError(
                f"the folder lacks weights: {len(missing)} are missing, for example {missing[0]}", key="model.base"
            )
        yield OpenedShare(model, homes, names, partners, checkpoint)


@dataclass
class OpenedShare:
    """A rank's share of a model, without memory until it is filled."""

    model: Any
    homes: dict[str, Home]
    """By name in the whole model's state, of the tensors that are still to be read."""
    _names: dict[str, str]
    """Name in the state -> name in the files."""
    _partners: dict[str, str]
    """Of tensors that are tied, one's name -> the other's."""
    _checkpoint: Checkpoint

    def fill(self, names: Iterable[str]) -> None:
        """Read what belongs to these homes. Tensors that are tied share memory, as long as the files do not hold two
        different ones."""
        filled: dict[str, torch.Tensor] = {}
        for name in names:
            home, partner_name = self.homes.pop(name), self._partners.get(name, "")
            tensor = self._checkpoint.read(self._names.get(name) or self._names[partner_name], home)
            if tensor.is_floating_point() and home.attribute != "scale":
                tensor = tensor.to(self.model.dtype)
            partner = filled.get(partner_name)
            if partner is not None and torch.equal(partner, tensor):
                tensor = partner
            filled[name] = home.put(tensor)


def read_model_config(folder: Path) -> Any:
    """The transformers configuration of a model folder, int8 ones included.

    Raises:
        ModelError: there is no such folder, or the configuration is of no known family.
    """
    import transformers

    if not (folder / "config.json").is_file():
        raise ModelError(
            "shards are read from a model folder",
            value=str(folder),
            allowed="a folder that save_pretrained or the compress stage wrote",
            key="model.base",
            hint="download the model, and name its folder",
        )
    settings = read_config(folder)
    settings.pop("quantization_config", None)
    try:
        return transformers.AutoConfig.for_model(**settings)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"this configuration is of no known family ({error})", value=str(folder), key="model.base"
        ) from error


class Checkpoint:
    """The tensors in a folder's safetensors files, which are open inside ``with``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = ExitStack()
        self._opened: dict[str, Any] = {}
        self._file_of: dict[str, str] = {}

    def __enter__(self) -> Checkpoint:
        from safetensors import SafetensorError, safe_open

        try:
            for file in self._file_names():
                opened = self._files.enter_context(safe_open(self._folder / file, framework="pt"))
                self._opened[file] = opened
                self._file_of |= dict.fromkeys(opened.keys(), file)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            self._files.close()
            raise ModelError(
                f"the weights cannot be read in shards ({type(error).__name__}: {error})",
                value=str(self._folder),
                allowed=f"a folder with {WEIGHTS_FILE} or {INDEX_FILE}",
                key="model.base",
                hint="write other formats anew: load the model with transformers and call save_pretrained",
            ) from error
        return self

    def __exit__(self, *exc: object) -> None:
        self._files.close()

    def float_type(self) -> torch.dtype:
        """Of the first tensor that is floating point."""
        types = (self._slice(name).get_dtype() for name in self._file_of)
        known = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        return next((known[kind] for kind in types if kind in known), torch.float32)

    def names_in(self, model: Any) -> dict[str, str]:
        """Name in the model's state -> name in the files, which older versions of a family may spell otherwise.

        Raises:
            ModelError: the files hold tensors that must be computed with, not only renamed.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        changes = get_model_conversion_mapping(model)
        renamings = [change for change in changes if isinstance(change, WeightRenaming)]
        converters = [change for change in changes if isinstance(change, WeightConverter)]
        state = model.state_dict()
        names = {}
        for name in self._file_of:
            renamed, conversion = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
            if conversion is not None:
                raise ModelError(
                    "the weights are stored in another layout than the model's, which shards cannot read",
                    value=name,
                    key="model.base",
                )
            names[renamed] = name
        return names

    def read(self, name: str, home: Home) -> torch.Tensor:
        """What ``home`` keeps of the tensor, contiguous."""
        if home.axis is None:
            tensor: torch.Tensor = self._opened[self._file_of[name]].get_tensor(name)
        else:
            source = self._slice(name)
            pieces = [source[a:b] if home.axis == 0 else source[:, a:b] for a, b in home.ranges]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=home.axis)
        return tensor.t().contiguous() if home.is_transposed else tensor.contiguous()

    def _slice(self, name: str) -> Any:
        return self._opened[self._file_of[name]].get_slice(name)

    def _file_names(self) -> list[str]:
        index = self._folder / INDEX_FILE
        if not index.is_file():
            return [WEIGHTS_FILE]
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))


class _WithoutMemory(TorchFunctionMode):
    """Makes ``torch.empty``, with which layers make their large parameters, take no memory; in this thread."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        changes = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **(kwargs or {}) | changes)


def _empty_model(folder: Path, dtype: str, checkpoint: Checkpoint) -> Any:
    """The whole model without weights; buffers that no file holds (rotary frequencies) have their values."""
    import transformers
    from transformers.initialization import no_init_weights

    config = read_model_config(folder)
    info = read_info(folder) if is_compressed(folder) else None
    stored = getattr(torch, info.dtype) if info else config.dtype or checkpoint.float_type()
    kind = stored if dtype == "auto" else getattr(torch, dtype)
    try:
        with _BUILDING, quiet_transformers(), no_init_weights(), _WithoutMemory():
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=kind)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"this config makes no text-generation model ({error})", value=str(folder)) from error
    if (folder / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    if info is not None:
        place_layers(model, info)
    return model


def _tied(model: Any) -> dict[str, str]:
    """Name of a tensor in the state -> name of the one that it shares."""
    model.tie_weights()
    return dict(model.all_tied_weights_keys)
