"""How pictures are drawn: one style, and an SVG that is the same for the same figures.

    data -> matplotlib Figure -> SVG text, safe to put into a page beside others

The SVG has no date, no random names, no reference to anything outside it; its ink is `currentColor`, so that
a page's light and dark colours apply. Colours are Okabe and Ito's, which colour-blind people can tell apart.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bottlekit.errors import ReportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GRAY = "#8A8A8A"

# A colour that no palette holds stands for "the page's text colour" until the SVG is written.
INK = "#010203"
_STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
_MISSING_GLYPH = r"Glyph \d+ .* missing from font"
_FONTS = "'DejaVu Sans', Verdana, Arial, sans-serif"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the report: a heading, what to see in it, and the drawing as one `<svg>` element.

    `figure` is what the drawing was made from, for those who need pixels.
    """

    title: str
    caption: str
    svg: str
    figure: Figure | None = dataclasses.field(default=None, compare=False, repr=False)

    def png(self, dots_per_inch: int = 150) -> bytes:
        """The picture as a PNG file on white. Raises ReportError for one that was made from no figure."""
        import matplotlib

        if self.figure is None:
            raise ReportError(f"the picture '{self.title}' was made from no figure, and has no pixels")
        out = io.BytesIO()
        with matplotlib.rc_context({"savefig.transparent": False}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", _MISSING_GLYPH, UserWarning)
            self.figure.savefig(
                out, format="png", dpi=dots_per_inch, facecolor="white", metadata={"Software": None}
            )
        return out.getvalue()


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw inside: matplotlib's settings are as they were afterwards. No display and no pyplot is used."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """An empty figure, drawn without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches))


def quiet_grid(axes: Axes, axis: str) -> None:
    """Thin lines behind the data along "x" or "y"."""
    axes.grid(axis=axis, color=GRAY, alpha=0.35, linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def svg_from_figure(figure: Figure, name: str, description: str) -> str:
    """The figure as one `<svg>` element; the same figure gives the same bytes.

    `name` keeps its ids apart from those of other pictures in the page; `description` is read out to people
    who do not see it.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # Letters that this font lacks are drawn by the reader's browser, which has more fonts.
        warnings.filterwarnings("ignore", _MISSING_GLYPH, UserWarning)
        figure.savefig(out, format="svg", metadata={"Date": None})
    # Arranged once: pixels of the same figure are where its lines are.
    figure.set_layout_engine("none")
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, count=1, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    text = re.sub(r"'DejaVu Sans'(?:, [^;\"]*sans-serif)?", _FONTS, text)
    prefix = "p" + hashlib.sha256(name.encode("utf-8")).hexdigest()[:8]
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", text)
    width, height = figure.get_size_inches()
    head = f'<svg role="img" aria-labelledby="{prefix}-title" style="min-width:{round(62 * width)}px" '
    title = f'<title id="{prefix}-title">{_escaped(description)}</title>'
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening).replace("<svg ", head, 1)
    return checked_svg(f"{opening}>{title}{rest}", f"{width:g} x {height:g} inch picture '{name}'")


def checked_svg(svg: str, what: str) -> str:
    """The SVG itself, if a page can show it as it is: one `<svg>`, no script, nothing loaded from elsewhere.

    Raises ReportError otherwise.
    """
    loads = re.search(r"""(?:href|src)\s*=\s*["'](?!\#|data:image/)|url\((?!\#)|@import""", svg)
    scripts = re.search(r"<(script|foreignObject|iframe|animate|set)\b|\son\w+\s*=", svg, re.IGNORECASE)
    if not svg.startswith("<svg") or not svg.endswith("</svg>") or loads or scripts:
        raise ReportError(f"the {what} is no plain SVG drawing: it must not hold scripts or load anything")
    return svg


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
