"""Models that runs kept: what is known about each, and where it lies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Module

from fd_flower.core import kept
from fd_flower.core.client import natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.library import is_text
from fd_flower.core.samples import Samples
from fd_flower.core.storage import folder_name, load
from fd_flower.models.adapters import ranked
from fd_flower.models.frozen import base, whole
from fd_flower.models.trainable import choose

if TYPE_CHECKING:
    from fd_flower.tasks.world import World

OF_FILES = ("retrieval", "language")
"""Tasks whose models have a body that is kept elsewhere, unless it learns."""
SERVER = "server"
FOLDER = "models"
"""Of a run's folder: what it kept."""

HOW = "run again with run.keep=last (the models evaluated last) or run.keep=best (those at the best validation figure)"


def about_model(
    world: "World",
    architecture: str,
    network: str,
    client: str,
    samples: Samples | None,
    module: Module | None = None,
) -> dict[str, Any]:
    """Return what is known about a model: all that it takes to build its network, to feed it and to read it.

    Parameters
    ----------
    world : World
        Where it was evaluated.
    architecture : str
        Its architecture.
    network : str
        The class of its network.
    client : str
        Whose it is; ``server`` for the server's.
    samples : Samples | None
        Samples that it takes, where there are any here.
    module : Module | None
        The model, if it may lack blocks of its architecture.
    """
    settings = world.settings
    found: dict[str, Any] = {
        "method": settings.method,
        "task": world.kind.name,
        "client": client,
        "architecture": architecture,
        "network": network,
        "named": world.named or settings.task,
        "precision": settings.run.precision,
        "trainable": settings.client.trainable,
        "rank": world.rank(architecture),
        "adapters": world.adapters,
        "lora_alpha": settings.client.lora_alpha,
        "lora_layers": settings.client.lora_layers,
    }
    if world.kind.name == "retrieval":
        config = settings.kinds.get("retrieval")
        own = {"seed": settings.run.seed, "retrieval": {} if config is None else asdict(config)}
        return {**found, **own, "base": world.base(architecture)}
    if world.kind.name == "language":
        return {**found, **_of_language(world, architecture, module), "base": world.base(architecture)}
    if samples is not None:
        found["input"] = {
            "shape": list(samples.x.shape[1:]),
            "type": str(samples.x.dtype).removeprefix("torch."),
        }
    if samples is not None and is_text(samples.x):
        data = settings.data
        texts = {"seed": settings.run.seed, "length": data.length, "clean": data.clean}
        module = world.module(architecture)
        of_files = {key: str(getattr(module, key, "")) for key in ("encoder", "license")}
        found["texts"] = {**texts, **of_files}
    return {
        **found,
        "classes": list(world.class_names),
        "outputs": len(world.class_names) or (0 if samples is None else world.classes(architecture)),
        "norm": settings.model.norm,
        "features": settings.model.features,
        "projection": settings.model.projection,
        "head": settings.model.head,
        "weights": settings.model.weights,
    }


def _of_language(world: "World", architecture: str, own: Any) -> dict[str, Any]:
    """Return what a language model is built of, and what its weights belong to."""
    settings = world.settings
    module: Any = world.module(architecture)
    config = settings.kinds.get("language")
    return {
        "seed": settings.run.seed,
        "length": settings.data.length,
        "clean": settings.data.clean,
        "language": {} if config is None else asdict(config),
        "models": settings.model.name,
        "lacks": 0 if own in (None, module) else len(module.layers()) - len(own.layers()),
        **{key: str(getattr(module, key, "")) for key in ("files", "license", "tokenizer_hash")},
    }


# --- where it lies


def name_of(client: str, architecture: str = "") -> str:
    """Return the name of a client's file; of the server's, with an architecture where it has a model of each."""
    if client == SERVER:
        return f"{SERVER}{'-' if architecture else ''}{folder_name(architecture)}.safetensors"
    return f"client-{folder_name(client)}.safetensors"


def find(source: Path, client: str | None = None) -> Path:
    """Return the file of a model that a run kept.

    Parameters
    ----------
    source : Path
        A run's folder, a device's ``state-dir`` (its newest run counts) or a run's folder in it, or the file itself.
    client : str | None
        Whose: a client's id, ``server``, or ``server:cnn`` where the server has a model of each architecture. None: the
        only one.

    Raises
    ------
    InvalidInputError
        Where there is none, with what there is and how a run keeps one.
    """
    if source.is_file():
        return source
    if (source / kept.MODEL).is_file():
        return source / kept.MODEL
    if not source.is_dir():
        raise InvalidInputError(f"there is no {source}: expected a run's folder, or a device's state-dir")
    return _of_run(source, client) if (source / "config.yaml").is_file() else _of_device(source, client)


def _of_run(run: Path, client: str | None) -> Path:
    there = sorted((run / FOLDER).glob("*.safetensors"), key=lambda path: natural(path.stem))
    if not there:
        raise InvalidInputError(f"{run} kept no model (run.keep=none, or nothing is evaluated yet): {HOW}")
    if client is None and len(there) == 1:
        return there[0]
    of_server = [path for path in there if path.name.startswith(SERVER)]
    if client is not None and client.partition(":")[0] == SERVER:
        named = run / FOLDER / name_of(SERVER, client.partition(":")[2])
        if named in there:
            return named
        if not of_server:
            raise InvalidInputError(
                f"{run} has no model of a server: its method evaluates clients' own models; name a client by its id"
            )
        whose = ", ".join(f"'server:{kept.read_about(path)['architecture']}'" for path in of_server)
        raise InvalidInputError(f"{run} has a server's model of each architecture: say which, {whose}")
    if client is not None and (path := run / FOLDER / name_of(client)) in there:
        return path
    clients = [kept.read_about(path)["client"] for path in there if path not in of_server]
    whose = ", ".join(([SERVER] if of_server else []) + clients[:8]) + (", ..." if len(clients) > 8 else "")
    if client is None:
        raise InvalidInputError(f"{run} kept {len(there)} models: say whose, one of {whose}")
    raise InvalidInputError(f"{run} kept no model of client '{client}'; it has those of {whose}")


def _of_device(state: Path, client: str | None) -> Path:
    if client is not None and client.partition(":")[0] == SERVER:
        raise InvalidInputError(
            f"{state} is no run's folder, and only there is a server's model: expected one with config.yaml"
        )
    name = "*" if client is None else folder_name(client)
    there = [*state.glob(f"{name}/{kept.MODEL}"), *state.glob(f"*/{name}/{kept.MODEL}")]
    newest = max(there, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        whose = "" if client is None else f" of client '{client}'"
        raise InvalidInputError(f"{state} is neither a run's folder nor a state-dir with a model{whose}: {HOW}")
    return newest


# --- what it holds


def kept_of(module: Module, task: str) -> dict[str, Tensor]:
    """Return what is kept of a model: all of it, but of retrievers and language models what learned.

    The rest of these has its files.
    """
    return module.state_dict() if task in OF_FILES else whole(module)


def completed(world: "World", architecture: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is kept of the server's model whose part that learns has these values, as ``kept_of`` does."""
    if world.settings.client.trainable == "all" or world.kind.name in OF_FILES:
        return dict(values)
    return {**whole(world.module(architecture)), **values}


def body_of(about: Mapping[str, Any]) -> str:
    """Return the architecture of a model that was kept, without the rank that a run with several ranks gives it."""
    return ranked(about["architecture"])[0]


def learning(module: Module, about: Mapping[str, Any], sample: Callable[[], Tensor] | None = None) -> Module:
    """Give a new network what ``client.trainable`` added to it in the run, and let the same part of it learn."""
    return choose(
        module,
        about["trainable"],
        body_of(about),
        rank=about["rank"],
        alpha=about["lora_alpha"],
        maps=about["lora_layers"],
        adapters=about["adapters"],
        sample=sample,
    )


def restore(
    module: Module, tensors: Mapping[str, Tensor], about: Mapping[str, Any], what: str, *, alike: bool = True
) -> None:
    """Load what was kept into a network whose rest its files have.

    Parameters
    ----------
    module : Module
        The network, in which the same part learns as in the run.
    tensors : Mapping[str, Tensor]
        What was kept.
    about : Mapping[str, Any]
        What is known about the model.
    what : str
        What the files are of, as an error names it: ``the encoder 'hashed'``.
    alike : bool
        Whether the rest has the run's precision, so that it can be compared with the run's.

    Raises
    ------
    InvalidInputError
        Where the rest is another than the run's.
    """
    missing, unexpected = module.load_state_dict(tensors, strict=False)  # what did not learn was not kept
    if missing or unexpected or (alike and about["base"] and base(module) != about["base"]):
        raise InvalidInputError(f"{what} is another than the run's: put it back")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what is known about a model that was kept, and its weights.

    Raises
    ------
    InvalidInputError
        For a file that is damaged, or no model of a run's.
    """
    about = kept.read_about(path)
    return about, load(path)[0]


def names(about: Mapping[str, Any], count: int) -> Sequence[str]:
    """Return the names of a model's classes; numbers if they have no names."""
    return about.get("classes") or [str(number) for number in range(count)]
