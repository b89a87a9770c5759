"""FD-Flower: federated distillation for Flower, each method a Strategy and a ClientApp.

A method is found by its name: ``fd_flower.methods.strategy("fd")`` or, in an installed
package, ``from fd_flower.strategies.fd import FD``.
"""

from pathlib import Path

__version__ = "0.1.0"

# A wheel carries the two rooms inside this package; a checkout or a FAB has them beside it.
if not Path(__file__).with_name("strategies").is_dir():
    __path__.append(str(Path(__file__).parents[1]))
