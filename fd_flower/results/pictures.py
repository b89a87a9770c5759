"""Plots of results: a file of pixels for the page, two of lines for a paper, and what they show, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from fd_flower.core.storage import replace_file
from fd_flower.results import page, plots
from fd_flower.results.page import Markup, element
from fd_flower.results.panels import Panel

LINES = {
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}
"""Formats that a paper can scale, with what of their making is left out: the same figures give the same files."""
MOST = 12  # lines of a figure that its description names


@dataclass(frozen=True)
class Picture:
    """A figure to be written and shown.

    Attributes
    ----------
    name : str
        What its files are called, without the ending.
    alt : str
        What is seen, for who cannot see it.
    figure : Figure
        The drawing.
    """

    name: str
    alt: str
    figure: Figure

    @classmethod
    def of(cls, panel: Panel, name: str = "") -> "Picture":
        """Return the plot of a panel."""
        return cls(name, ends(panel.title, "round", panel.ends), plots.of_panel(panel))

    @cached_property
    def png(self) -> bytes:
        """Return the plot as a PNG file's content."""
        return png(self.figure)

    def write(self, out: Path) -> None:
        """Write the plot as PNG, PDF and SVG."""
        replace_file(out / f"{self.name}.png", self.png)
        for kind, metadata in LINES.items():
            file = BytesIO()
            # The salt names SVG's parts alike each time; 42 is TrueType, since publishers refuse Type 3 fonts.
            with rc_context({"svg.hashsalt": "fd-flower", "pdf.fonttype": 42}):
                self.figure.savefig(file, format=kind, metadata=metadata)
            replace_file(out / f"{self.name}.{kind}", file.getvalue())

    def html(self) -> Markup:
        """Return the plot as a part of a page."""
        return page.image(self.png, self.alt)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file's content."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def beside(pictures: Sequence[Picture]) -> Markup:
    """Return plots next to each other on a wide page, below each other on a narrow one."""
    return element("div", page.joined(*(picture.html() for picture in pictures)), "panels")


def strip(pictures: Sequence[Picture]) -> bytes:
    """Return plots of one height in a row, as one PNG file's content."""
    images = [Image.open(BytesIO(picture.png)).convert("RGB") for picture in pictures]
    row = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)), "white")
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width
    file = BytesIO()
    row.save(file, format="png")
    return file.getvalue()


def ends(what: str, over: str, values: Sequence[tuple[str, str]]) -> str:
    """Return what lines come to, as in ``Test accuracy, by round: fedavg ends at 81.2 %, fd at 42.3 %``."""
    if not values:
        return f"{what}, by {over}: not measured."
    told = [f"{name}{' ends' if i == 0 else ''} at {value}" for i, (name, value) in enumerate(values[:MOST])]
    more = f" and {len(values) - MOST} more" if len(values) > MOST else ""
    return f"{what}, by {over}: {', '.join(told)}{more}."
