"""How well a classifier tells images of its classes from images of none of them, by how sure it is."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from attnorm.errors import DataError, JobError

Score = Literal["max_softmax", "max_logit"]
RECALL = 0.95  # of the true positives, at which the false ones are counted


class OutlierTally:
    """Scores of all images, as `attnorm.training.evaluation.evaluate` collects them.

    An outlier (label 1) is the positive class. An image's score, the higher the more it looks like an outlier, is minus
    the highest softmax probability, or minus the highest logit, among the outputs that may answer.

    Protocol and measures of ImageNet-O's authors: D. Hendrycks et al., "Natural Adversarial Examples", arXiv
    1907.07174; the scores are of arXiv 1610.02136 and 1911.11132.

    Args:
        outputs: the outputs that may answer; None: all.
        score: which of the two scores.
    """

    def __init__(self, outputs: Sequence[int] | None = None, score: Score = "max_softmax") -> None:
        self.outputs = None if outputs is None else torch.tensor(outputs)
        self.score: Score = score
        self.scores: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Scores one batch: logits (N, classes), labels (N,) 0 or 1."""
        if self.outputs is not None:
            logits = logits[:, self.outputs.to(logits.device)]
        # In double precision sure answers, whose probabilities differ from 1 by less than 1e-7, still have an order.
        logits = logits.double()
        finite = logits.isfinite().all(dim=1)
        values = logits.softmax(dim=1) if self.score == "max_softmax" else logits
        self.scores.append(torch.where(finite, -values.amax(dim=1), torch.nan))
        self.labels.append(labels)

    def result(self) -> dict[str, float | int]:
        """Over the images of all processes: `aupr`, `auroc` and `fpr95` in percent, `count`, `outliers` among them.

        `aupr` is the average precision and `fpr95` the share of inliers taken for outliers when at least 95 % of the
        outliers are found.

        Raises:
            DataError: there are no outliers, or nothing else.
            JobError: the network's outputs are not finite.
        """
        scores = gather(torch.cat(self.scores) if self.scores else torch.empty(0, dtype=torch.float64))
        labels = gather(torch.cat(self.labels) if self.labels else torch.empty(0, dtype=torch.int64))
        outliers = int(labels.sum())
        if not 0 < outliers < len(labels):
            raise DataError(
                f"outliers must be told from other images; there are {outliers} outliers among {len(labels)} images"
            )
        if lost := int(scores.isnan().sum()):
            raise JobError(f"the network's outputs must be finite, for {lost} of {len(scores)} images they are not")
        return {**measures(scores, labels), "count": len(labels), "outliers": outliers}


def measures(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Measures of a detector, in percent.

    Args:
        scores: (N,), higher for what it takes to be positive.
        labels: (N,), 1 for what is positive and 0 for the rest; both must occur.

    Returns:
        `aupr` (average precision), `auroc` and `fpr95` (false positive rate at a true positive rate of at least 95 %).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    truth, ranked = labels.numpy(), scores.numpy()
    false_rate, true_rate, _ = roc_curve(truth, ranked, drop_intermediate=False)
    return {
        "aupr": 100 * float(average_precision_score(truth, ranked)),
        "auroc": 100 * float(roc_auc_score(truth, ranked)),
        "fpr95": 100 * float(false_rate[true_rate >= RECALL][0]),
    }


def gather(values: Tensor) -> Tensor:
    """Joins tensors (n,), of another length in each process, to one on the CPU, the same in every process."""
    values = values.cpu()
    if not dist.is_initialized():
        return values
    parts: list[Tensor] = [values] * dist.get_world_size()
    dist.all_gather_object(parts, values)
    return torch.cat(parts)
