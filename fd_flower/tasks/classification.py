"""Classification: telling classes apart, evaluated by accuracy, calibration, figures by class and a user's own."""

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower.config import Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.data import partition
from fd_flower.data.public import checksum
from fd_flower.objectives.metrics import accuracy, by_class, confusion, measure, restricted
from fd_flower.tasks.backdoor import NAME as BACKDOOR
from fd_flower.tasks.kind import Figures, Inference, Predictor, View, predicted
from fd_flower.tasks.metric import try_out, values
from fd_flower.tasks.probe import Probe, check_shapes
from fd_flower.training import predict
from fd_flower.wire.replies import METRICS as CELLS

SERVER_CELLS = 10_000
"""Cells of the largest confusion matrix (100 classes) of a server's model; a client's has to fit into a reply."""


@final
class Classification:
    """Telling classes apart: accuracy, negative log-likelihood, calibration, and figures by class."""

    name = "classification"
    higher_is_better = True
    takes_judges = True

    def capabilities(self, world: View, client: str, model: str) -> dict[str, Any]:
        """Return a client's answer to the handshake.

        Raises
        ------
        InvalidInputError
            For samples of several shapes, a model that does not return logits [B, C], and classes it does not know.
        """
        own = world.data(client) if world.has_data else None  # first, so that models are tried on its samples
        of_model, found = self.of_model(world, model, f"client {client} has"), world.probe(model)
        if own is None:
            shape = next((list(s.x.shape[1:]) for s in (world.test, world.public) if s is not None), [])
            return {**of_model, "counts": [], "examples": 0, "shape": shape}
        check_shapes(client, own.train, {"the test set": world.test, "the public samples": world.public})
        for part, samples in (("", own.train), (" (validation)", own.validation), (" (test)", own.test)):
            _check_labels(f"client {client}{part}", samples, found)
        tried = next((part for part in (own.test, own.validation, own.train) if len(part)), own.train)
        try_out(world.metrics, tried.labels, found.classes)
        return {
            **of_model,
            "counts": torch.bincount(own.train.labels.cpu(), minlength=found.classes).tolist(),
            "examples": len(own.train),
            "shape": list(own.train.x.shape[1:]),
        }

    def of_model(self, world: View, model: str, who: str = "clients have") -> dict[str, Any]:
        """Return what of a client's answer its model says: ``features``, ``classes``, ``lacks`` and ``cost``.

        ``who`` is for errors, which are those of ``capabilities``.
        """
        found, names = world.probe(model), world.class_names
        if names and found.classes != len(names):
            raise InvalidInputError(
                f"{found.called} tells {found.classes} classes apart, {who} {len(names)} "
                f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): give its last layer {len(names)} outputs"
            )
        _check_labels("the test set", world.test, found)
        said = {"features": found.features, "classes": found.classes, "lacks": found.lacks}
        return {**said, "cost": found.cost} if found.cost else said

    def examples(self, world: View, client: str, model: str) -> int:
        """Return the number of a client's training samples."""
        return len(world.data(client).train)

    def figures(
        self,
        world: View,
        client: str,
        model: Predictor,
        shared: Predictor | None,
        limit: int | None,
        inference: Inference = Inference(),
    ) -> Figures:
        """Measure a client's model.

        Parameters
        ----------
        world : View
            The run as this process sees it.
        client : str
            Whose own parts count.
        model : Predictor
            What is measured on them.
        shared : Predictor | None
            What is measured on all clients' parts; None: the same.
        limit : int | None
            Test images to use, 0: all; None: own parts alone, for a method whose server model stands for all.
        inference : Inference
            How the client predicts on its own parts.

        Returns
        -------
        Figures
            ``accuracy``, ``nll``, ``ece`` on the own test part, ``validation`` accuracy on the own validation part; on
            all clients' ``global``, ``global_nll``, ``global_ece`` (global test set), ``pooled``,
            ``pooled_validation``. Those of ``BY_CLASS`` and the task's own metrics by their names on the own test part,
            elsewhere after ``global_``, ``validation_``, ``pooled_validation_``. Counts of the own test part and, after
            ``global_``, of the global test set: ``confusion`` [C * C] or ``right`` and ``support`` [C]. Accuracy by
            the other rules of ``BY_RULE`` on the own test part and, after ``validation_``, on the own validation part.
            What has no samples, and what is not defined on them, is missing.
        """
        seen = self._seen(world, client, model, shared, limit)
        found: Figures = {}
        for name, (logprobs, labels) in seen.items():
            if len(labels) == 0:
                continue
            if name in ("accuracy", "validation"):
                logprobs, rules = _by_rule(world, client, name, logprobs, inference)
                found |= rules
            got = measure(logprobs, labels.cpu())
            found[name] = got["accuracy"]
            if name == "pooled":
                continue
            prefix = "" if name == "accuracy" else f"{name}_"
            whose = f"client {client}'s {'test' if name == 'accuracy' else name} samples"
            if name in ("accuracy", "global"):
                found |= {f"{prefix}{key}": got[key] for key in ("nll", "ece")}
            counts = confusion(logprobs, labels)
            more: Figures = {**by_class(logprobs, labels, counts), **values(world.metrics, logprobs, labels, whose)}
            if name in ("accuracy", "global"):
                more |= _counts(counts, CELLS)
            found |= {f"{prefix}{key}": value for key, value in more.items()}
        if limit is not None:
            found |= {f"global_{key}": value for key, value in _back_door(world, shared or model, limit).items()}
        return found

    def accuracies(self, world: View, client: str, model: Predictor, limit: int | None) -> dict[str, float]:
        """Return ``accuracy`` on the own test part, ``pooled`` and ``global``, as ``figures`` does."""
        seen = self._seen(world, client, model, None, limit)
        names = [name for name in ("accuracy", "pooled", "global") if name in seen and len(seen[name][1])]
        return {name: measure(seen[name][0], seen[name][1].cpu())["accuracy"] for name in names}

    def _seen(
        self, world: View, client: str, model: Predictor, shared: Predictor | None, limit: int | None
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return predictions [N, C] and labels [N] by the name of the accuracy on them; arguments as of ``figures``."""
        own, precision = world.data(client), world.settings.run.precision
        wholes = {} if limit is None else world.pool(limit)
        seen = {}
        parts = (("validation", "validation", "pooled_validation"), ("test", "accuracy", "pooled"))
        for part, name, pooled_name in parts:
            samples, whole = getattr(own, part), wholes.get(part)
            if whole is not None:
                everybodys = _again_and_again(shared or model, whole, precision)
                seen[pooled_name] = (everybodys, whole.labels)
            if whole is not None and shared is None and whole is world.pooled[part]:  # the own part is in it
                seen[name] = (everybodys[world.pooled_rows(client, part)], samples.labels)
            else:
                seen[name] = (predicted(model, samples, precision), samples.labels)
        if limit is not None and (test := world.test_part(limit)) is not None:
            of_all = _again_and_again if world.hosted else predicted
            seen["global"] = (of_all(shared or model, test, precision), test.labels)
        return seen

    def judges(self, world: View) -> bool:
        """Whether there is a test set, or clients' parts that can be seen."""
        return any(samples is not None and len(samples) for samples in (world.test, *world.pooled.values()))

    def judged(self, world: View, model: Module, limit: int) -> Figures:
        """Return ``accuracy``, ``nll``, ``ece`` on the test set, ``pooled`` and ``validation`` accuracy.

        Those of ``BY_CLASS`` and the task's own metrics are by their names on the test set, on the validation samples
        after ``validation_``; counts of the test set as in ``figures``.
        """
        parts = {"accuracy": world.test_part(limit), "pooled": world.pooled.get("test")}
        parts["validation"] = world.pooled.get("validation")
        found: Figures = {}
        for key, samples in parts.items():
            if samples is None or not len(samples):
                continue
            logprobs, labels = predict(model, samples, precision=world.settings.run.precision), samples.labels.cpu()
            got = measure(logprobs, labels)
            found[key] = got["accuracy"]
            if key == "pooled":
                continue
            counts, whose = confusion(logprobs, labels), "the test set" if key == "accuracy" else "validation samples"
            more: Figures = {**by_class(logprobs, labels, counts), **values(world.metrics, logprobs, labels, whose)}
            if key == "accuracy":
                found |= {"nll": got["nll"], "ece": got["ece"], **more, **_counts(counts, SERVER_CELLS)}
            else:
                found |= {f"{key}_{name}": value for name, value in more.items()}
        return found | _back_door(world, model, limit)

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return all of ``data``, but what other partitions go by."""
        return partition.options(settings.data)

    def copy(self, world: View) -> str:
        """Return the start of the test set's SHA-256."""
        return "" if world.test is None else checksum(world.test)[:12]

    def references(self, world: View) -> dict[str, dict[str, float]]:
        """Return nothing: a classifier that has not learned tells nothing."""
        return {}


def _back_door(world: View, model: Predictor, limit: int) -> dict[str, float]:
    """Return how often a back door opens, the share of images with its trigger that get its class; {} without one."""
    samples = world.triggered(limit)
    if samples is None or not len(samples):
        return {}
    return {BACKDOOR: accuracy(_again_and_again(model, samples, world.settings.run.precision), samples.labels.cpu())}


def _again_and_again(model: Predictor, samples: Samples, precision: str) -> Tensor:
    """Return what ``predicted`` does, on samples that this process predicts on once a client."""
    return predicted(model, samples.decoded if isinstance(model, Module) else samples, precision)


def _by_rule(
    world: View, client: str, name: str, logprobs: Tensor, inference: Inference
) -> tuple[Tensor, dict[str, float]]:
    """Return the client's predictions on its own part [N, C], and the accuracy of other rules.

    Parameters
    ----------
    world, client, inference
        As of ``figures``.
    name : str
        ``accuracy`` for the test part, ``validation``.
    logprobs : Tensor
        What its model says, among all classes [N, C].
    """
    own, prefix = world.data(client), "" if name == "accuracy" else f"{name}_"
    samples = own.test if name == "accuracy" else own.validation
    classes = torch.zeros(logprobs.shape[1], dtype=torch.bool)
    classes[own.train.labels.cpu()] = True
    if not len(own.train):
        return logprobs, {}
    nearest, head = (
        logprobs if model is None else predicted(model, samples, world.settings.run.precision)
        for model in (inference.nearest, inference.head)
    )
    rules = {"accuracy_own": restricted(nearest, classes)}
    if inference != Inference():  # else these are what accuracy and accuracy_own are
        rules |= {"accuracy_all": nearest, "accuracy_head": head, "accuracy_head_own": restricted(head, classes)}
    found = {f"{prefix}{rule}": accuracy(said, samples.labels) for rule, said in rules.items()}
    return restricted(logprobs, classes) if inference.own else logprobs, found


def _counts(counts: Tensor, cells: int) -> dict[str, list[int]]:
    """Return a confusion matrix [C, C] by rows, or its counts of correctly classified samples by class."""
    if counts.numel() <= cells:
        return {"confusion": counts.flatten().tolist()}
    if len(counts) > CELLS:
        return {}
    return {"right": counts.diagonal().tolist(), "support": counts.sum(1).tolist()}


def _check_labels(who: str, samples: Samples | None, model: Probe) -> None:
    """Refuse samples whose labels are not one class each that the model knows."""
    if samples is None or not len(samples):
        return
    labels = samples.labels
    if labels.dim() != 1:
        raise InvalidInputError(
            f"{who} has labels of shape {list(labels.shape)}; expected one class a sample, [{len(labels)}] "
            "(of one-hot rows give the place of the 1, as argmax does)"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= model.classes:
        wrong = int(labels.max()) if int(labels.min()) >= 0 else int(labels.min())
        raise InvalidInputError(
            f"{who} has the label {wrong}; {model.called} tells {model.classes} classes apart, expected 0 to "
            f"{model.classes - 1}: give its last layer an output a class (names of classes, Samples.of(..., "
            "classes=...), have their numbers there)"
        )


CLASSIFICATION = Classification()
