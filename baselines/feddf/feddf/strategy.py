"""feddf: A Flower Baseline."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import INFO

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from feddf.utils import copy_of, predict


@dataclass(frozen=True)
class Distillation:
    """How the server distills.

    Attributes
    ----------
    steps : int
        Most steps a round; 0 is FedAvg.
    patience : int
        Steps without a gain after which distillation ends.
    check_every : int
        Steps between two evaluations on the public images that were held back.
    learning_rate : float
        Learning rate of Adam, which falls to 0 along a cosine.
    batch_size : int
        Public images a step.
    seed : int
        Seed of the order of the public images.
    """

    steps: int = 10000
    patience: int = 1000
    check_every: int = 100
    learning_rate: float = 0.001
    batch_size: int = 128
    seed: int = 0


class FedDF(FedAvg):
    """FedAvg whose average is the start of a student of the clients' ensemble.

    Parameters
    ----------
    model : Callable[[], nn.Module]
        Makes the model of server and clients.
    public : Tensor
        Unlabeled images [N, C, H, W]; a tenth is held back to choose the student.
    distillation : Distillation
        How the server distills.
    device : torch.device
        Where the server distills.
    **kwargs
        Options of FedAvg.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        public: Tensor,
        distillation: Distillation,
        device: torch.device,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.model = model
        self.public = public
        self.distillation = distillation
        self.device = device

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the clients' weights, then distill their ensemble into the mean."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None or not self.distillation.steps:
            return arrays, metrics
        teacher = self.ensemble([msg for msg in replies if not msg.has_error()])
        student = self.load(arrays)
        before, after = self.distill(student, teacher, server_round)
        log(INFO, "distance to the ensemble: %.4f, distilled %.4f", before, after)
        return ArrayRecord(student.cpu().state_dict()), metrics

    def load(self, arrays: ArrayRecord) -> nn.Module:
        """Return a model with these weights."""
        net = self.model()
        net.load_state_dict(arrays.to_torch_state_dict())
        return net.to(self.device)

    def ensemble(self, replies: list[Message]) -> Tensor:
        """Return the softmax of the clients' mean logits on the public images."""
        total = torch.zeros(())
        for msg in replies:
            net = self.load(msg.content[self.arrayrecord_key])
            total = total + predict(net, self.public, self.device)
        return (total / len(replies)).softmax(1)

    def distill(
        self, student: nn.Module, teacher: Tensor, server_round: int
    ) -> tuple[float, float]:
        """Bring the student near the ensemble; return the distance before and after.

        The student with the smallest distance on the images that were held back is
        kept, which may be the average that it started from.
        """
        options = self.distillation
        cut = max(1, len(self.public) * 9 // 10)
        draw = torch.Generator().manual_seed(options.seed + server_round)
        optimizer = torch.optim.Adam(student.parameters(), lr=options.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
        first = best = self.distance(student, teacher, cut)
        kept, kept_at = copy_of(student), 0
        for step in range(1, options.steps + 1):
            rows = torch.randint(cut, (options.batch_size,), generator=draw)
            optimizer.zero_grad()
            logits = student.train()(self.public[rows].to(self.device))
            wanted = teacher[rows].to(self.device)
            F.kl_div(logits.log_softmax(1), wanted, reduction="batchmean").backward()
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            if step % options.check_every == 0:
                found = self.distance(student, teacher, cut)
                if found < best:
                    best, kept, kept_at = found, copy_of(student), step
                elif step - kept_at >= options.patience:
                    break
        student.load_state_dict(kept)
        return first, best

    def distance(self, student: nn.Module, teacher: Tensor, cut: int) -> float:
        """Return the KL divergence on the public images that were held back."""
        logits = predict(student, self.public[cut:], self.device)
        return F.kl_div(
            logits.log_softmax(1), teacher[cut:], reduction="batchmean"
        ).item()
