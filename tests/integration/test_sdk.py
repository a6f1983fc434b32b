"""The Python face on a real Ray: the classes as the framework's documents use them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch

from fastserve_ray import FastServe, ParallelTrainer
from fastserve_ray.errors import DataError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("ray_cluster")

CONFIG = {"model": "bert", "dim": 32, "num_heads": 2, "hidden_size": 64, "num_labels": 2, "num_layers": 2}
GOOD, BAD = ["good", "great", "fine", "lovely"], ["bad", "awful", "poor", "dull"]


def sentences(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Sentences that one word decides."""
    draw = random.Random(seed)
    labels = [draw.randint(0, 1) for _ in range(count)]
    return [f"the film was {draw.choice(GOOD if label else BAD)} to watch" for label in labels], labels


@pytest.mark.slow
def test_fastserve_trains_tunes_compresses_serves_and_predicts(tmp_path: Path) -> None:
    train_data, train_labels = sentences(256, seed=0)
    dev_data, dev_labels = sentences(64, seed=1)
    small = {**CONFIG, "vocab_size": 320, "max_length": 32}
    framework = FastServe(small, storage=str(tmp_path / "runs"), workers=2, learning_rate=1e-3)
    trained = framework.train(train_data, train_labels, dev_data, dev_labels, epochs=15, batch_size=32)
    assert (trained / "model.safetensors").exists()
    assert framework.metrics["eval_accuracy"] >= 0.9

    framework.tune(dev_data, dev_labels, steps=8, patience=2, num_samples=2)
    assert set(framework.best) == {"train.learning_rate"}
    assert 1e-5 <= framework.best["train.learning_rate"] <= 1e-3

    framework.model = trained
    compressed = framework.compress(trained, tmp_path / "small")
    assert (compressed / "compression_report.md").exists()
    test_data, test_labels = sentences(32, seed=2)
    predicted = framework.predict(test_data)
    assert sum(a == b for a, b in zip(predicted, test_labels, strict=True)) >= 28
    with pytest.raises(UsageError, match="there already"):
        framework.compress(trained, compressed)

    app = framework.serve(compressed, port=0)
    try:
        body = {"model": app.model_name, "input": test_data}
        answer = httpx.post(f"{app.url}/v1/classify", json=body, timeout=60).raise_for_status().json()
        assert [int(item["label"]) for item in answer["data"]] == predicted
    finally:
        app.shutdown()


def test_fastserve_says_what_is_missing(tmp_path: Path) -> None:
    framework = FastServe(CONFIG, storage=str(tmp_path))
    with pytest.raises(UsageError, match="call train first"):
        framework.tune(["a"], [0], steps=1, patience=1)
    with pytest.raises(UsageError, match="one label for each text"):
        framework.train(["a", "b"], [0], ["a"], [0])
    with pytest.raises(UsageError, match="unknown keys"):
        FastServe({**CONFIG, "widht": 3})


class Pairs:
    """y = 2x - 1 with a little noise, as pairs of tensors."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, 4, generator=generator)
        self.y = self.x.sum(-1, keepdim=True) * 2 - 1

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


def plain_losses(model: Any, data: Pairs, *, batch_size: int, epochs: int, learning_rate: float) -> list[float]:
    """The same training in one process, written out."""
    from fastserve_ray.data.order import global_order

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    total = epochs * -(-len(data) // batch_size)
    losses = []
    for step in range(total):
        epoch, position = divmod(step, -(-len(data) // batch_size))
        rows = global_order(len(data), 0, epoch)[position * batch_size : (position + 1) * batch_size].tolist()
        loss = torch.nn.functional.mse_loss(model(data.x[rows]), data.y[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / total)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_parallel_trainer_trains_as_one_process_would() -> None:
    data = Pairs(50)  # the last batch is smaller, and its shares are uneven
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    twin = torch.nn.Linear(4, 1)
    twin.load_state_dict(model.state_dict())
    trainer = ParallelTrainer(model, data, batch_size=8, num_epochs=3, num_workers=2, learning_rate=0.1)
    trained = trainer.train()
    expected = plain_losses(twin, data, batch_size=8, epochs=3, learning_rate=0.1)
    assert trained is model
    assert trainer.losses == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(model.weight, twin.weight, atol=1e-5)
    assert trainer.losses[-1] < 0.6 * trainer.losses[0]


def test_parallel_trainer_says_what_is_wrong() -> None:
    with pytest.raises(UsageError) as caught:
        ParallelTrainer(torch.nn.Linear(4, 1), Pairs(4), batch_size=0, num_epochs=1)
    assert caught.value.key == "batch_size"
    trainer = ParallelTrainer(torch.nn.Linear(4, 1), [1.0, 2.0], batch_size=2, num_epochs=1)
    with pytest.raises(DataError, match="unknown form"):
        trainer.train()
