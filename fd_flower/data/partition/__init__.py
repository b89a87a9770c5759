"""Who holds which rows: the partitioners of flwr-datasets, and rules that it lacks."""

from fd_flower.data.partition.deal import options, partition, rules

__all__ = ["options", "partition", "rules"]
