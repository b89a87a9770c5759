"""The options of a server that makes one prediction of its clients'."""

from dataclasses import dataclass, field
from typing import Any

from fd_flower.config import ServerConfig
from fd_flower.ensemble import Rule, named


@dataclass(frozen=True)
class EnsembleConfig(ServerConfig):
    """The options of a server that makes one prediction of its clients'."""

    rule: str = "mean_of_probabilities"
    """How predictions become one: `mean_of_probabilities`, `mean_of_logits`, `median`, `trimmed_mean`, `rank_vote`."""
    rule_args: dict[str, Any] = field(default_factory=dict)
    """The rule's arguments, like `trim` of `trimmed_mean`."""

    def __post_init__(self) -> None:
        """Check the values, and that the rule takes its arguments."""
        super().__post_init__()
        _ = self.ensemble

    @property
    def ensemble(self) -> Rule:
        """The rule with its arguments."""
        return named(self.rule, **self.rule_args)
