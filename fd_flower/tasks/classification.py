"""Classification: telling classes apart, evaluated by accuracy, negative log-likelihood and calibration."""

from typing import Any, final

import torch
from torch.nn import Module

from fd_flower.config import Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.data import partition
from fd_flower.data.public import checksum
from fd_flower.objectives.metrics import measure
from fd_flower.tasks.kind import Predictor, View, predicted
from fd_flower.tasks.probe import Probe, check_shapes
from fd_flower.training import predict


@final
class Classification:
    """Telling classes apart: accuracy, negative log-likelihood and calibration."""

    name = "classification"
    headline = "accuracy"

    def capabilities(self, world: View, client: str, model: str) -> dict[str, Any]:
        """Return a client's answer to the handshake.

        Raises
        ------
        InvalidInputError
            For samples of several shapes, a model that does not return logits [B, C], and classes it does not know.
        """
        found, names = world.probe(model), world.class_names
        if names and found.classes != len(names):
            raise InvalidInputError(
                f"{found.called} tells {found.classes} classes apart, client {client} has {len(names)} "
                f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): give its last layer {len(names)} outputs"
            )
        _check_labels("the test set", world.test, found)
        of_model = {"features": found.features, "classes": found.classes, "lacks": found.lacks}
        if not world.has_data:
            shape = next((list(s.x.shape[1:]) for s in (world.test, world.public) if s is not None), [])
            return {**of_model, "counts": [], "examples": 0, "shape": shape}
        own = world.data(client)
        check_shapes(client, own.train, {"the test set": world.test, "the public samples": world.public})
        for part, samples in (("", own.train), (" (validation)", own.validation), (" (test)", own.test)):
            _check_labels(f"client {client}{part}", samples, found)
        return {
            **of_model,
            "counts": torch.bincount(own.train.labels.cpu(), minlength=found.classes).tolist(),
            "examples": len(own.train),
            "shape": list(own.train.x.shape[1:]),
        }

    def figures(
        self, world: View, client: str, model: Predictor, shared: Predictor | None, limit: int | None
    ) -> dict[str, float]:
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
            What is measured on everybody's parts; None: the same.
        limit : int | None
            Test images to use, 0: all; None: own parts alone, for a method whose server model stands for all.

        Returns
        -------
        dict[str, float]
            ``accuracy``, ``nll``, ``ece`` on the own test part, ``validation`` accuracy on the own validation part; on
            everybody's ``global``, ``global_nll``, ``global_ece`` (balanced test set), ``pooled``,
            ``pooled_validation``. What has no samples is missing.
        """
        own, precision = world.data(client), world.settings.run.precision
        wholes = {} if limit is None else world.pooled
        seen = {}
        parts = (("validation", "validation", "pooled_validation"), ("test", "accuracy", "pooled"))
        for part, name, pooled_name in parts:
            samples, whole = getattr(own, part), wholes.get(part)
            if whole is not None:
                everybodys = predicted(shared or model, whole, precision)
                seen[pooled_name] = (everybodys, whole.labels)
            if whole is not None and shared is None:  # the own part is in it
                seen[name] = (everybodys[world.pooled_rows(client, part)], samples.labels)
            else:
                seen[name] = (predicted(model, samples, precision), samples.labels)
        if limit is not None and (test := world.test_part(limit)) is not None:
            seen["global"] = (predicted(shared or model, test, precision), test.labels)
        found = {}
        for name, (logprobs, labels) in seen.items():
            if len(labels) == 0:
                continue
            got = measure(logprobs, labels.cpu())
            found[name] = got["accuracy"]
            if name in ("accuracy", "global"):
                prefix = "" if name == "accuracy" else "global_"
                found |= {f"{prefix}{key}": got[key] for key in ("nll", "ece")}
        return found

    def judges(self, world: View) -> bool:
        """Whether there is a test set, or clients' parts that can be seen."""
        return any(samples is not None and len(samples) for samples in (world.test, *world.pooled.values()))

    def judged(self, world: View, model: Module, limit: int) -> dict[str, float]:
        """Return ``accuracy``, ``nll``, ``ece`` on the test set, ``pooled`` and ``validation`` accuracy."""
        parts = {"accuracy": world.test_part(limit), "pooled": world.pooled.get("test")}
        parts["validation"] = world.pooled.get("validation")
        found = {}
        for key, samples in parts.items():
            if samples is None or not len(samples):
                continue
            got = measure(predict(model, samples, precision=world.settings.run.precision), samples.labels.cpu())
            found[key] = got["accuracy"]
            if key == "accuracy":
                found |= {"nll": got["nll"], "ece": got["ece"]}
        return found

    def options(self, settings: Settings) -> dict[str, Any]:
        """Return all of ``data``, but what other partitions go by."""
        return partition.options(settings.data)

    def copy(self, world: View) -> str:
        """Return the start of the test set's SHA-256."""
        return "" if world.test is None else checksum(world.test)[:12]

    def references(self, world: View) -> dict[str, dict[str, float]]:
        """Return nothing: a classifier that has not learned tells nothing."""
        return {}


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
