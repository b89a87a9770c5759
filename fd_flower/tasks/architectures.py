"""The models of one process: a resident module an architecture, what each starts from, and who has which."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import Module

from fd_flower import models
from fd_flower.config import Settings, averaging
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import seed_of, seeded
from fd_flower.core.samples import Samples
from fd_flower.data.encoder import encoder
from fd_flower.models import feature_model
from fd_flower.models.adapters import Stacked, ranked, with_rank
from fd_flower.models.choices import ADDED
from fd_flower.models.frozen import base, copied, share
from fd_flower.models.norms import normalized
from fd_flower.models.trainable import choose
from fd_flower.tasks.drawing import drawn_by
from fd_flower.tasks.probe import Probe, called, looked_at, materialize, probe
from fd_flower.tasks.task import Task


class Architectures(ABC):
    """The models of a run as one process sees them; ``World`` adds the samples.

    Attributes
    ----------
    settings : Settings
        The run.
    task : Task
        Makes the models.
    device : torch.device
        Where they are.
    """

    settings: Settings
    task: Task
    device: torch.device

    def __init__(self) -> None:
        self._modules: dict[str, Module] = {}
        self._initial: dict[str, dict[str, Tensor]] = {}
        self._slots: dict[str, list[tuple[str, Module, str, bool]]] = {}
        self._bases: dict[str, str] = {}
        self._probed: dict[str, Probe] = {}
        self._encoders: dict[str, Callable[[Samples], Tensor]] = {}

    @property
    @abstractmethod
    def has_data(self) -> bool:
        """Whether the task has the clients' samples."""

    @property
    @abstractmethod
    def sample(self) -> Samples | None:
        """Some samples that a model takes; None where this process has none."""

    @property
    @abstractmethod
    def public(self) -> Samples | None:
        """The public samples, or None."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The run's classes in the order of their numbers."""

    @abstractmethod
    def _any_input(self) -> Tensor:
        """Return one sample as a model takes it [1, ...]."""

    def module(self, name: str, build: Callable[[], Module] | None = None, *, like: str = "") -> Module:
        """Return the one resident module of an architecture, or of another name.

        Parameters
        ----------
        name : str
            An architecture, or what a further module is called.
        build : Callable[[], Module] | None
            Makes a further module; what it draws is seeded by its name.
        like : str
            The architecture of which a further module is a second model.
        """
        if name not in self._modules:
            architecture = like or name
            # Of one body with adapters of several ranks there is one draw.
            seed = seed_of(self.settings.run.seed, "model", drawn_by(ranked(architecture)[0]))
            with seeded(seed, self.device):
                module = build().to(self.device) if build else self._model(architecture)
            self._modules[name] = module
            self._initial[name] = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
            self._slots[name] = list(_slots(module))
        return self._modules[name]

    def _model(self, architecture: str) -> Module:
        """Return a new model of which that part learns which ``client.trainable`` names."""
        client, name = self.settings.client, ranked(architecture)[0]
        module = self.task.model(name).to(self.device)
        materialize(name, module, self._any_input)
        module = normalized(module, self.settings.model.norm, name)
        # What is added is drawn on the CPU, so that it is the same on every device.
        chosen = choose(
            module.cpu() if client.trainable in ADDED else module,
            client.trainable,
            name,
            rank=self.rank(architecture),
            alpha=client.lora_alpha,
            maps=client.lora_layers,
            adapters=self.adapters,
            sample=lambda: self._any_input().cpu(),
        )
        share(chosen.to(self.device))
        return chosen

    def rank(self, architecture: str) -> int:
        """Return the rank of the adapters of an architecture: that in its name, else the largest of `client.rank`."""
        found, own = ranked(architecture)[1], self.settings.client.rank
        return found or (max(own) if isinstance(own, list) else own)

    @cached_property
    def adapters(self) -> str:
        """How the server averages adapters (`server.adapters`); most methods have one way."""
        return averaging(self.settings.server).adapters

    def base(self, name: str) -> str:
        """Return the checksum of what is frozen in a model of this architecture; "" where all of it learns."""
        if self.settings.client.trainable == "all":
            return ""
        if name not in self._bases:
            self._bases[name] = base(self.module(name))
        return self._bases[name]

    def initial(self, name: str) -> dict[str, Tensor]:
        """Return the state dict that every client of an architecture, and the server, starts from: of what learns."""
        self.module(name)
        return self._initial[name]

    def load(self, name: str, tensors: Mapping[str, Tensor]) -> Module:
        """Point the resident module at copies of these tensors.

        They take the module's own types: what a server's optimizer or mean made of float32 may have come as float64.

        Raises
        ------
        InvalidInputError
            Where one of the module's tensors is missing, or has another shape.
        """
        module = self.module(name)
        for key, owner, slot, is_parameter in self._slots[name]:
            if key not in tensors:
                raise InvalidInputError(
                    f"the weights lack '{key}' of {called(name, module)}: server and clients need one model"
                )
            own = self._initial[name][key]
            takes = owner.takes if isinstance(owner, Stacked) else None
            if (shape := tensors[key].shape) != own.shape and not (takes and takes(slot, shape, own.shape)):
                sizes = "client.rank" if self.settings.client.trainable in ADDED else "classes and inputs"
                raise InvalidInputError(
                    f"the weights have '{key}' of shape {list(shape)}; {called(name, module)} has it of "
                    f"{list(own.shape)}: server and clients need one model, of the same {sizes}"
                )
            tensor = like(tensors[key], own).to(self.device)
            if tensor is tensors[key]:
                tensor = tensor.clone()
            if is_parameter:
                parameter = owner.get_parameter(slot)
                parameter.data, parameter.grad = tensor, None
            else:
                owner._buffers[slot] = tensor
        return module

    def classes(self, name: str) -> int:
        """Return the number of classes C that a model of this architecture tells apart."""
        return self.probe(name).classes

    def features(self, name: str) -> int:
        """Return the feature size F of an architecture; 0 for a model without ``features`` and a linear ``head``."""
        return self.probe(name).features

    def cost(self, name: str) -> int:
        """Return the operations of a model of this architecture for one token: two a parameter."""
        return 2 * sum(parameter.numel() for parameter in self.module(name).parameters())

    def probe(self, name: str) -> Probe:
        """Try an architecture on one sample, once; InvalidInputError unless it returns logits [1, C]."""
        if name not in self._probed:
            module, sample = self.module(name), self.sample
            if sample is None and not self.has_data:
                self._probed[name] = looked_at(name, module, len(self.class_names))
            else:
                self._probed[name] = probe(name, module, self._any_input())
        return self._probed[name]

    def architecture(self, number: int) -> str:
        """Return the architecture of the client with this number, where its node names none."""
        return self.with_own_rank(self._architecture(number), number)

    def with_own_rank(
        self, name: str, number: int, rank: int | None = None, declared: Mapping[str, float] | None = None
    ) -> str:
        """Return an architecture's name with the rank of what is added to it, unless that is the run's one rank.

        Parameters
        ----------
        name : str
            The architecture.
        number : int
            The client's, which says its rank where `client.rank` is a list.
        rank : int | None
            The rank that its node names, if any.
        declared : Mapping[str, float] | None
            What a device declares (``memory-mb``, ``speed``); None: a simulated client.
        """
        client = self.settings.client
        if client.trainable not in ADDED:
            return name
        own = rank or client.rank_of(number, declared)
        return name if own == client.rank else with_rank(name, own)

    def _architecture(self, number: int) -> str:
        name, rows = self.settings.model.name, self.task.rows
        if rows is not None and rows.model is None:
            return models.assign(name, number)
        if self.settings.task or self.task.kind is not None:  # names of no zoo are their task's business
            return name[number % len(name)] if isinstance(name, list) else name
        return models.assign(name, number) if name else ""

    @property
    def period(self) -> int:
        """After how many clients architectures and ranks come again in the same order."""
        named, client = self.settings.model.name, self.settings.client
        own = bool(self.settings.task) and self.task.rows is None
        names = named if own or not named else models.architectures(named)
        cycles = (names, client.rank, client.memory_mb, client.speed)
        return math.lcm(*(len(cycle) for cycle in cycles if isinstance(cycle, list | tuple)))

    def encoded(self, architecture: str) -> Callable[[Samples], Tensor]:
        """Return what votes see of samples (`data.encoder`) at clients of an architecture.

        That is Samples -> [N, D] float64 on the CPU, of which the public samples' are made once.
        """
        own = self.settings.data.encoder == "model"
        key = architecture if own else ""
        if key not in self._encoders:
            if self.public is None:
                raise InvalidInputError(f"{self.settings.method} needs public samples; data.public is none")
            body = self._start_of(architecture) if own else None
            self._encoders[key] = encoder(self.settings.data, self.public, body)
        return self._encoders[key]

    def check_encoder(self) -> None:
        """Refuse a `data.encoder` that cannot be had, or does not fit the public samples."""
        if self.settings.data.encoder != "model":
            self.encoded("")

    def _start_of(self, name: str) -> Callable[[Tensor], Tensor]:
        """Return the features of an architecture's initial model, whatever the resident one learns."""
        if lacks := self.probe(name).lacks:
            raise InvalidInputError(f"data.encoder=model needs models with features: {lacks}")
        start = copied(self.module(name))
        start.load_state_dict(self.initial(name), strict=False)
        return feature_model(start.eval().requires_grad_(False)).features


def like(tensor: Tensor, own: Tensor) -> Tensor:
    """Return a tensor in the type of a module's ``own``; for whole numbers it is rounded."""
    rounds = tensor.is_floating_point() and not own.is_floating_point()
    return (tensor.round() if rounds else tensor).to(own.dtype)


def _slots(module: Module) -> Iterator[tuple[str, Module, str, bool]]:
    """Yield (state-dict key, owner, name, is a parameter) of everything in a module's state dict."""
    keys = set(module.state_dict())
    for prefix, owner in module.named_modules():
        for table, is_parameter in ((owner._parameters, True), (owner._buffers, False)):
            for slot in table:
                key = f"{prefix}.{slot}" if prefix else slot
                if key in keys:
                    yield key, owner, slot, is_parameter
