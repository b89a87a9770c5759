"""What clients and servers send each other: a few typed kinds of knowledge, each one record of a message.

Predictions are log-probabilities at temperature 1, in both directions. ``Weights`` travel as Flower's ordinary
``arrays`` record with plain state-dict keys, so that they work with anybody's app.
"""

from fd_flower.wire.adapters import Adapter
from fd_flower.wire.cached import CachedTeacher
from fd_flower.wire.candidates import Candidates, Chain, Scores
from fd_flower.wire.centers import Center
from fd_flower.wire.coefficients import Coefficients
from fd_flower.wire.features import GuideGradients, Guides, Head, Prototypes, Representation
from fd_flower.wire.generators import Generator, GeneratorWeights, LabelCounts, OptimizerState
from fd_flower.wire.importances import Importances
from fd_flower.wire.knowledge import Knowledge, Private
from fd_flower.wire.masks import Mask
from fd_flower.wire.moments import Moments
from fd_flower.wire.outlyingness import Outlyingness
from fd_flower.wire.payload import Bounds, Payload, coded, kind_of, pack, unpack
from fd_flower.wire.predictions import (
    ClassLogits,
    PublicHeads,
    PublicIndex,
    PublicLabels,
    PublicLogits,
    PublicVotes,
    stack,
)
from fd_flower.wire.samples import PixelStatistics, SampleKnowledge, SyntheticSet
from fd_flower.wire.scalars import SeedScalars
from fd_flower.wire.summable import Clippable, Summable
from fd_flower.wire.sums import Encrypted, Masked, Opened, SumCommitments, SumKeys, SumShares, SumUnmask
from fd_flower.wire.tokens import ChunkLikelihoods, TokenLogits, chosen, likeliest, mean_of_likelihoods
from fd_flower.wire.weights import Correction, Emulator, Holders, Information, ServerModel, Update, Weights

__all__ = [
    "Adapter",
    "Bounds",
    "CachedTeacher",
    "Candidates",
    "Center",
    "Chain",
    "ChunkLikelihoods",
    "ClassLogits",
    "Clippable",
    "Coefficients",
    "Correction",
    "Emulator",
    "Encrypted",
    "Generator",
    "GeneratorWeights",
    "GuideGradients",
    "Guides",
    "Head",
    "Holders",
    "Importances",
    "Information",
    "Knowledge",
    "LabelCounts",
    "Mask",
    "Masked",
    "Moments",
    "Opened",
    "OptimizerState",
    "Outlyingness",
    "Payload",
    "PixelStatistics",
    "Private",
    "Prototypes",
    "PublicHeads",
    "PublicIndex",
    "PublicLabels",
    "PublicLogits",
    "PublicVotes",
    "Representation",
    "SampleKnowledge",
    "Scores",
    "SeedScalars",
    "ServerModel",
    "SumCommitments",
    "SumKeys",
    "SumShares",
    "SumUnmask",
    "Summable",
    "SyntheticSet",
    "TokenLogits",
    "Update",
    "Weights",
    "chosen",
    "coded",
    "kind_of",
    "likeliest",
    "mean_of_likelihoods",
    "pack",
    "stack",
    "unpack",
]
