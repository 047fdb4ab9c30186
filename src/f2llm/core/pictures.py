"""How the project's pictures look: colours and matplotlib settings that all of them start from."""

from __future__ import annotations

INK, MUTED = "#1c2128", "#767d87"  # INK becomes a page's text colour; MUTED is readable on white and on black
COLOURS = ("#3f7fdc", "#139c94", "#6a9f1e", "#d19a08", "#e2702d", "#d3486a", "#9a5fd0", "#8a7464", "#5b6fb5", "#3f9a5c")
STYLE = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": MUTED,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
}
