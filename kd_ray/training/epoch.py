"""One epoch of one training: a pass over the rows that turns the weights of a model.

Every random number derives from (seed, epoch, rank), so a training that continues from a checkpoint
draws what it would have drawn.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_ray.batch import UNLABELLED, Feed
from kd_ray.config import Train
from kd_ray.errors import TrainingError
from kd_ray.models import bounded_layers
from kd_ray.training.batch_loss import ObjectiveFunction
from kd_ray.training.losses import Loss, exact
from kd_ray.training.optimizer import SteadySteps, set_knobs
from kd_ray.training.order import batch_bounds, derived_seed
from kd_ray.training.progress import Epoch, EpochPart, Leg, Notice, Step, Training
from kd_ray.training.schedule import Schedule
from kd_ray.training.workers import Worker, average_buffers, summed

TICK_S = 0.5
NOTICE_EVERY = 25
"""Steps from asking for a notice to asking again."""
LEG_STEPS = 1000
"""Steps of an epoch after which all random numbers are drawn anew from the seed, so that a training
that goes on from there draws the same: most epochs are shorter."""
NORM_EVERY = 10
"""Steps from one look at the gradient's norm to the next: it costs a pass over all weights."""


@dataclass
class Turn:
    """A training that is ready for its next epoch, and what comes of that.

    Attributes:
        training: changed in place.
        feed: rows to learn from.
        objective: the loss of one batch.
        options: epochs, batch size, precision.
        schedule: learning rate and momentum of each step.
        seed: of the order of rows and of dropout.
        metrics: figures of the epoch, when it is done.
        seconds: what it took.
        images_per_s: its rate, over all workers.
    """

    training: Training
    feed: Feed
    objective: ObjectiveFunction
    options: Train
    schedule: Schedule
    seed: int
    metrics: dict[str, float] | None = None
    seconds: float = 0.0
    images_per_s: float = 0.0

    @property
    def number(self) -> int:
        """Of the epoch, from 1."""
        return self.training.epoch + 1

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Of the epoch's batches, see `batch_bounds`."""
        return batch_bounds(self.feed.rows, self.options.batch_size)

    def set_knobs(self, step: int, steps: int) -> float:
        """Prepares the optimizer for a step of the epoch's; the share of the run that is done."""
        done, all_steps = (self.number - 1) * steps + step, steps * self.options.epochs
        knobs = self.schedule(done, steps, all_steps)
        set_knobs(self.training.optimizer, self.options.lr * knobs.lr_scale, knobs.momentum)
        return done / all_steps

    def clip(self, step: int) -> Iterator[Tensor]:
        """Clips the gradient where that is asked for; its norm, now and then."""
        if self.options.grad_clip is not None or step % NORM_EVERY == 0:
            largest = torch.inf if self.options.grad_clip is None else self.options.grad_clip
            yield nn.utils.clip_grad_norm_(self.training.model.parameters(), largest)

    def finish(
        self, sums: Sequence[float], norms: Sequence[Tensor], rows: int, seconds: float
    ) -> None:
        """Fills in what came of the epoch; `sums` are of all workers, see `step_sums`."""
        total, hard, soft, correct, labelled = sums
        steps = len(self.bounds)
        self.metrics = {
            "train_loss": total / steps,
            "hard_loss": hard / steps,
            "soft_loss": soft / steps,
            **({"train_accuracy": correct / labelled} if labelled else {}),
            "learning_rate": self.training.optimizer.param_groups[0]["lr"],
            "gradient_norm": float(torch.stack(list(norms)).mean()),
        }
        self.seconds, self.images_per_s = seconds, rows / seconds

    def figures(self) -> dict[str, float]:
        """The metrics of the epoch.

        Raises:
            TrainingError: its loss is not finite.
        """
        assert self.metrics is not None  # it is done
        if not math.isfinite(loss := self.metrics["train_loss"]):
            steps = len(self.bounds)
            raise TrainingError(
                f"epoch {self.number}: the loss must be finite, but is {loss * steps}; "
                "lower the learning rate, clip gradients (grad_clip), or check the soft weight"
            )
        return self.metrics


def train_epoch(
    turn: Turn, network: Callable[[Tensor], Tensor], worker: Worker
) -> Iterator[Step | Notice | Leg]:
    """Trains the next epoch of a training, alone.

    Args:
        turn: filled in.
        network: the training's model, as it is run.
        worker: this process among the workers; all of them call this with the same arguments.
    """
    training, number, bounds = turn.training, turn.number, turn.bounds
    part = training.part or EpochPart(0, [0.0] * 5, [])
    begun = [part.steps] if part.steps else []  # what was drawn before a notice is not drawn again
    torch.manual_seed(derived_seed(turn.seed, "dropout", number, worker.rank, *begun))
    norms = [torch.tensor(norm, device=worker.device) for norm in part.norms]
    sums = torch.tensor(part.sums, dtype=torch.float64, device=worker.device)
    sums *= worker.is_first  # they are of all workers
    first, _ = bounds[part.steps]
    training.model.train()
    take_step, bounded = SteadySteps(training.optimizer), bounded_layers(training.model)
    weights = list(training.model.parameters())
    started = ticked = time.perf_counter()
    size = turn.options.batch_size
    batches = turn.feed.batches(turn.seed, number, size, part.steps, worker.part_of)
    for step, batch in enumerate(batches, part.steps):
        done = turn.set_knobs(step, len(bounds))
        with autocast(turn.options.precision, worker.device):
            logits = network(batch.images)
        loss = turn.objective(exact(logits), batch, done)
        # DistributedDataParallel averages over workers; these are parts of one sum.
        (loss.total * worker.world).backward()  # type: ignore[no-untyped-call]
        norms += turn.clip(step)
        take_step()
        for weight in weights:
            weight.grad = None
        for layer in bounded:
            layer.project_()
        sums += step_sums(loss, logits, batch.labels)
        now = time.perf_counter()
        if now - ticked > TICK_S:
            ticked = now
            yield Step(number, step + 1, len(bounds), (bounds[step][1] - first) / (now - started))
        # The end of an epoch needs no notice, as it has its checkpoint.
        done_steps = step + 1
        ended = done_steps % LEG_STEPS == 0 and done_steps < len(bounds)
        due = done_steps % NOTICE_EVERY == 0 and done_steps < len(bounds)
        noticed = due and worker.noticed is not None and worker.noticed()
        if noticed or ended:
            average_buffers(training.model)
            training.part = EpochPart(
                done_steps, summed(sums.clone()).tolist(), [float(norm) for norm in norms]
            )
            yield (Notice if noticed else Leg)(number, done_steps, len(bounds))
        if ended:  # whether somebody goes on from here or not
            torch.manual_seed(derived_seed(turn.seed, "dropout", number, worker.rank, done_steps))
    turn.finish(summed(sums).tolist(), norms, turn.feed.rows - first, time.perf_counter() - started)


TrainingEvent = Step | Notice | Leg | Epoch | Turn
"""What happens in a training, for whoever drives it; a `Turn` where it trains the epochs."""


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass: bf16 where asked for, or where `auto` finds a GPU with it."""
    use = precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=use)


@torch.no_grad()
def step_sums(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """Total, hard and soft loss, and how many rows are right and labelled, `(5,)` float64.

    Of S students, whose logits are `(S, N, K)`, `(5, S)`; labels are `(N,)` of all, or `(S, N)`.
    """
    labelled = (labels != UNLABELLED).sum(-1)
    correct = (logits.argmax(-1) == labels).sum(-1)
    # As float32 at first, which holds the number of a batch's rows, and float64 at once.
    parts = (loss.total, loss.hard, loss.soft, correct, labelled.expand_as(correct))
    return torch.stack(parts).double()
