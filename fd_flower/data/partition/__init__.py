"""Who holds which rows: the partitioners of flwr-datasets, and rules that it lacks."""

from fd_flower.data.partition.advice import fewer
from fd_flower.data.partition.deal import options, partition, rules
from fd_flower.data.partition.rows import Held

__all__ = ["Held", "fewer", "options", "partition", "rules"]
