"""The options of attacks (section ``attack``)."""

from dataclasses import dataclass, field
from typing import Any

from fd_flower import attacks
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import Options, one_of, option


@dataclass(frozen=True)
class AttackConfig(Options):
    """Simulated clients that attack (section ``attack``)."""

    section = "attack"

    name: str = attacks.NONE
    """The attack: `none`, one of the page on robustness, or a control: `absent` (the attackers' replies are left out)
    or `honest` (they do no harm, but figures leave them out)."""
    fraction: float = option(0.2, above=0, below=1)
    """Share of all clients that attack, rounded, at least one; drawn with `run.seed`."""
    args: dict[str, Any] = field(default_factory=dict)
    """The attack's arguments, like `target` of `constant_class`."""
    knowledge: str = one_of(*attacks.KNOWLEDGE, default="omniscient")
    """What attackers know: their `own` reply; also the `teacher`, what the server sent; or, `omniscient`, also the
    round's honest replies."""
    since: int = option(1, least=1)
    """First round in which replies are attacked."""
    inject: int = option(0, least=0)
    """Candidates of each client that the server adds to the public samples: so many of its training samples and as many
    held-out ones. `fd-flower audit` sets it, for methods whose clients predict on public samples."""

    def __post_init__(self) -> None:
        """Check the values, that the attack takes its arguments, and that its attackers know enough."""
        super().__post_init__()
        marked = attacks.mark(self.name)
        if self.name in attacks.PLAIN:
            if self.args:
                raise InvalidInputError(
                    f"attack.args is {self.args}, and attack.name={self.name} takes none: leave it out"
                )
            return
        attacks.named(self.name, **self.args)
        known = attacks.KNOWLEDGE
        if known.index(self.knowledge) < known.index(marked.least):
            raise InvalidInputError(
                f"attack.name={self.name} needs attack.knowledge={marked.least}, and it is {self.knowledge}: raise it, "
                "or take another attack"
            )
        if self.on_data and self.since > 1:
            raise InvalidInputError(
                f"attack.since is {self.since}, and attack.name={self.name} changes training samples from the first "
                "round on: leave attack.since out"
            )

    @property
    def on_data(self) -> bool:
        """Whether attackers train on other labels or images, and send what comes out of it."""
        return bool({attacks.DATA, attacks.IMAGES} & {*attacks.mark(self.name).targets})

    @property
    def on_replies(self) -> bool:
        """Whether attackers' replies are rewritten or left out, so that the server needs single ones."""
        return self.name not in (attacks.NONE, attacks.HONEST) and not self.on_data
