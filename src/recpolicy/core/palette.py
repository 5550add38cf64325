"""Colors of plots and reports, for light and dark pages.

Series colors are the color-blind-safe ones of Okabe & Ito 2008, darkened for white paper and lightened for black; the
order keeps neighbors apart in lightness too. A series beyond the sixth repeats a color with another dash.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shade:
    """A color with its CSS variable; to_svg finds it by its `light` value."""

    variable: str
    light: str
    dark: str


INK = Shade("--ink", "#1f2933", "#e6e9ec")
MUTED = Shade("--muted", "#5d6975", "#a3adb8")
GRID = Shade("--grid", "#dfe3e8", "#343b43")
PAPER = Shade("--paper", "#ffffff", "#15191d")
PANEL = Shade("--panel", "#f5f7f9", "#1d2328")
SERIES = (
    Shade("--series-1", "#0072b2", "#56b4e9"),
    Shade("--series-2", "#d55e00", "#ff8f45"),
    Shade("--series-3", "#00865f", "#2fc99a"),
    Shade("--series-4", "#a8487f", "#e79cc6"),
    Shade("--series-5", "#8f6f00", "#f0d24a"),
    Shade("--series-6", "#4b5563", "#c3cad2"),
)
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
SHADES = (INK, MUTED, GRID, PAPER, PANEL, *SERIES)
