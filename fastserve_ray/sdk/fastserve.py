"""``FastServe``: a text classifier from Python lists to an endpoint, through the same stages as a YAML file."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import UsageError
from fastserve_ray.sdk.model_config import model_section
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastserve_ray.engines.protocol import BatchEngine
    from fastserve_ray.run.walk import RunResult
    from fastserve_ray.serve.deploy import ServedApp

Label = int | str

DEFAULT_SEARCH = {"train.learning_rate": {"space": "loguniform", "lower": 1e-5, "upper": 1e-3}}


class FastServe:
    """Trains, tunes, compresses and serves one model.

    Every step is a run of the framework on Ray: settings that were run before are not run again, and a step that was
    cut short goes on from its last checkpoint.

    Args:
        model_config: ``{'model': 'bert', 'dim': 768, 'num_heads': 12, 'hidden_size': 3072, 'num_labels': 2}``: a model
            type of transformers, the width of its embeddings, attention heads, width of the feed-forward layers,
            classes. Optional: ``num_layers``, ``vocab_size``, ``max_length``. Or
            ``{'model': FOLDER or hub id, 'num_labels': 2}`` to start from trained weights.
        storage: where artifacts, checkpoints and events go.
        workers: Ray Train workers.
        learning_rate: of ``train``; ``tune`` looks for a better one.
        train_settings: further keys of ``train`` in the YAML.
    """

    def __init__(
        self,
        model_config: Mapping[str, Any],
        *,
        storage: str = "./runs",
        name: str = "fastserve",
        workers: int = 1,
        learning_rate: float = 5e-5,
        train_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._model, self._max_length = model_section(model_config)
        self._storage = storage
        self._name = name
        self._train_section: dict[str, Any] = {
            "learning_rate": learning_rate,
            "parallel": {"workers": workers},
            **(train_settings or {}),
        }
        self._data_section: dict[str, Any] | None = None
        self._label_type: type = str
        self._engine: tuple[Path, BatchEngine] | None = None
        self.model: Path | None = None
        """Folder of the current model: the newest that was trained, tuned or compressed."""
        self.metrics: dict[str, float] = {}
        """Of the current model, on the dev data."""
        self.best: dict[str, Any] = {}
        """What the last ``tune`` found, by dotted path."""

    def train(  # noqa: PLR0917 - the interface that the framework promises
        self,
        train_data: Sequence[str],
        train_labels: Sequence[Label],
        dev_data: Sequence[str],
        dev_labels: Sequence[Label],
        epochs: float = 1,
        batch_size: int = 32,
    ) -> Path:
        """Train on Ray Train workers.

        Args:
            train_data, dev_data: texts.
            train_labels, dev_labels: whole numbers 0..k-1, or names.
            epochs: passes over the training texts.
            batch_size: texts in one optimizer step over all workers.

        Returns:
            the model's folder, which ``load_model`` opens.

        Raises:
            UsageError: texts and labels do not match.
            SpecError: a setting is out of its range.
            TrainingError, DataError: see the message.
        """
        self._label_type = type(train_labels[0]) if len(train_labels) else str
        self._train_section |= {"num_epochs": float(epochs), "batch_size": batch_size}
        self._data_section = {
            "train": {"path": self._write_rows(train_data, train_labels, "train_data")},
            "validation": {"path": self._write_rows(dev_data, dev_labels, "dev_data")},
            "max_length": self._max_length,
        }
        return self._run_to_train({})

    def tune(
        self,
        dev_data: Sequence[str],
        dev_labels: Sequence[Label],
        steps: int,
        patience: int,
        *,
        num_samples: int = 4,
        parameters: Mapping[str, Any] | None = None,
        search_alg: str = "random",
    ) -> Path:
        """Search the learning rate with Ray Tune and ASHA, then train once more with the best one found.

        Args:
            dev_data, dev_labels: what trials are judged on.
            steps: optimizer steps of a trial.
            patience: a trial ends after so many evaluations without a better one.
            num_samples: trials.
            parameters: other search spaces by dotted path, as in the YAML.

        Returns:
            the folder of the model trained with the best configuration; ``best`` holds that.

        Raises:
            UsageError: ``train`` was not called before: it brings the training data.
            TuneError: every trial failed.
        """
        if self._data_section is None:
            raise UsageError("there is no training data yet", allowed="call train first", key="tune")
        self._data_section["validation"] = {"path": self._write_rows(dev_data, dev_labels, "dev_data")}
        search = {
            "metric": "eval_accuracy",
            "search_alg": search_alg,
            "num_samples": num_samples,
            "max_steps": steps,
            "patience": patience,
            "parameters": dict(parameters or DEFAULT_SEARCH),
        }
        return self._run_to_train({"tune": search})

    def compress(self, model: str | Path | None, filename: str | Path, *, scheme: str = "int8-dynamic") -> Path:
        """Quantize a model to int8 and write it, with a report of what it cost on the dev data.

        Args:
            model: a folder that ``train`` or ``tune`` returned; None takes the current one.
            filename: the folder to write; it must not exist yet, or be empty.
            scheme: "int8-dynamic" or "int8-weight-only".

        Returns:
            ``filename`` as a path; it becomes the current model.

        Raises:
            UsageError: there is no model yet, or ``filename`` is taken.
        """
        from fastserve_ray.compress.apply import compress_model_folder
        from fastserve_ray.spec import QuantizeStep

        source, out = self._folder(model), Path(filename)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError("this is there already", value=str(out), allowed="a new or empty folder", key="filename")
        out.mkdir(parents=True, exist_ok=True)
        dataset = self._dataset()
        report = compress_model_folder(
            source,
            [QuantizeStep.model_validate({"kind": "quantize", "scheme": scheme})],
            task="text-classification",
            rows=dataset.validation,
            pad_token_id=dataset.info.pad_token_id,
            out=out,
        )
        self.model, self.metrics = out, report.figures()
        return out

    def serve(self, model: str | Path | None = None, port: int = 8000) -> ServedApp:
        """Serve a model over HTTP (``/v1/classify``) with Ray Serve; returns when it answers.

        Returns:
            the running application: ``url``, ``wait()`` and ``shutdown()``.

        Raises:
            ServeError: the port is taken, or the model cannot be served.
        """
        from fastserve_ray.serve.deploy import deploy
        from fastserve_ray.spec import ServeSpec

        folder = self._folder(model)
        return deploy(folder.absolute(), "text-classification", self._name, ServeSpec(port=port))

    def predict(self, test_data: Sequence[str]) -> list[Label]:
        """Labels of texts by the current model, through the engine that serves, in this process.

        Returns:
            labels of the kind that ``train`` was given: numbers or names.
        """
        from fastserve_ray.engines.table import open_engine

        folder = self._folder(None)
        if self._engine is None or self._engine[0] != folder:
            self._engine = (folder, cast("BatchEngine", open_engine(folder, "text-classification")))
        predictions = self._engine[1].predict(list(test_data))
        if issubclass(self._label_type, str):
            return [prediction.label for prediction in predictions]
        return [prediction.label_id for prediction in predictions]

    def _run_to_train(self, further: Mapping[str, Any]) -> Path:
        from fastserve_ray.run.driver import run
        from fastserve_ray.run.progress import renderer_for

        spec = spec_from_dict(
            {
                "version": 1,
                "name": self._name,
                "storage": self._storage,
                "model": self._model,
                "data": self._data_section,
                "train": self._train_section,
                **further,
            }
        )
        result = run(spec, wait=False, until="train", renderer=renderer_for(sys.stdout))
        return self._take(result)

    def _take(self, result: RunResult) -> Path:
        registry = Registry(Storage.open(self._storage))
        self.model = registry.fetch(result.artifacts["train"])
        self.metrics = dict(registry.get(result.artifacts["train"]).metrics)
        self._dataset_id = result.artifacts["data"]
        if "tune" in result.artifacts:
            best: Any = registry.get(result.artifacts["tune"]).info["best"]
            self.best = dict(best)
            for path, value in self.best.items():
                section, _, key = path.partition(".")
                if section == "train" and "." not in key:
                    self._train_section[key] = value
        return self.model

    def _dataset(self) -> Any:
        from fastserve_ray.data.dataset import PreparedDataset

        if self._data_section is None:
            raise UsageError("there is no dev data yet", allowed="call train first", key="compress")
        return PreparedDataset.open(Registry(Storage.open(self._storage)).fetch(self._dataset_id))

    def _folder(self, model: str | Path | None) -> Path:
        folder = self.model if model is None else Path(model)
        if folder is None:
            raise UsageError("there is no model yet", allowed="call train first, or give a folder", key="model")
        return folder

    def _write_rows(self, texts: Sequence[str], labels: Sequence[Label], name: str) -> str:
        """Rows as a Parquet file named by its content: the same rows are the same input to the plan."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if len(texts) != len(labels) or not len(texts):
            raise UsageError(
                "there must be one label for each text", value=f"{len(texts)} texts, {len(labels)} labels", key=name
            )
        if not all(isinstance(text, str) for text in texts):
            raise UsageError("every item must be a text", value=type(texts[0]).__name__, allowed="str", key=name)
        content = repr(list(zip(texts, labels, strict=True))).encode()
        folder = Storage.open(self._storage).local_path("inputs") or Path.home() / ".cache" / "fastserve_ray" / "inputs"
        file = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": list(texts), "label": list(labels)}), file)
        return str(file.absolute())
