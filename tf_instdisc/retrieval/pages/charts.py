"""Bokeh charts for a page."""

from typing import Any

import numpy as np
from bokeh import models, palettes, plotting

_PALETTE = palettes.Category20_20
NUM_COLORS = len(_PALETTE)
_FLAT = 0.01  # Changes of less than 1% are not worth a chart.
_TEXT = "#7d8590"  # Readable on white and on black.


def _figure(**options: Any) -> plotting.figure:
    figure = plotting.figure(
        sizing_mode="stretch_width",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
        toolbar_location="above",
        **options,
    )
    figure.toolbar.logo = None
    for axis in figure.axis:
        axis.axis_line_color = axis.major_tick_line_color = _TEXT
        axis.minor_tick_line_color = None
        axis.major_label_text_color = axis.axis_label_text_color = _TEXT
    figure.grid.grid_line_color = _TEXT
    figure.grid.grid_line_alpha = 0.25
    if figure.title and not isinstance(figure.title, str):
        figure.title.text_color = _TEXT
    return figure


def curve(
    metrics: list[dict[str, float]], name: str, title: str
) -> plotting.figure | None:
    """Plots a metric; None if it hardly changes or was not measured."""
    points = [
        # Six digits, so that the axis does not show rounding errors.
        (epoch["epoch"], float(f"{epoch[name]:.6g}"))
        for epoch in metrics
        if name in epoch and np.isfinite(epoch[name])
    ]
    if not points:
        return None
    epochs, values = zip(*points, strict=True)
    if np.ptp(values) <= _FLAT * np.abs(values).max():
        return None
    chart = _figure(
        title=title,
        height=190,
        tools="hover,box_zoom,reset",
        tooltips=[("epoch", "@x"), (title, "@y{0.[0000]a}")],
    )
    chart.line(epochs, values, line_width=2, color=_PALETTE[0])
    chart.scatter(epochs, values, size=5, color=_PALETTE[0])
    return chart


def embedding_map(
    points: np.ndarray,
    colors: np.ndarray,
    names: list[str],
    captions: list[str],
    sheet_side: int,
) -> plotting.figure:
    """Plots the map; hovering over a point shows its picture and name.

    All pictures are in one sheet, the CSS variable `--sheet`, and each point
    stores its place in the sheet.

    Args:
        points: float `[size, 2]`.
        colors: int `[size]`, as in `legend`.
        names: `[size]`.
        captions: `[size]`.
        sheet_side: Number of pictures in a row of the sheet.
    """
    places = np.arange(len(points))
    steps = max(1, sheet_side - 1)
    source = models.ColumnDataSource(
        {
            "x": np.round(points[:, 0], 2).astype(np.float32),
            "y": np.round(points[:, 1], 2).astype(np.float32),
            "color": [_PALETTE[int(c) % len(_PALETTE)] for c in colors],
            # Bokeh escapes these in tooltips.
            "name": names,
            "caption": captions,
            "left": np.round(places % sheet_side * 100 / steps, 3),
            "top": np.round(places // sheet_side * 100 / steps, 3),
        }
    )
    tooltip = (
        '<div style="width:110px">'
        '<div class="map-picture" style="width:96px;height:96px;'
        f"background-image:var(--sheet);background-size:{sheet_side * 100}%;"
        'background-position:@left% @top%"></div>'
        '<div style="overflow-wrap:anywhere">@caption</div>'
        '<div style="overflow-wrap:anywhere;color:#666">@name</div></div>'
    )
    chart = _figure(
        height=480,
        tools="pan,wheel_zoom,box_zoom,reset",
        active_drag="pan",
    )
    chart.axis.visible = False
    chart.grid.visible = False
    points_drawn = chart.scatter(
        "x", "y", source=source, size=5, color="color", alpha=0.75
    )
    chart.add_tools(
        models.HoverTool(
            renderers=[points_drawn],
            tooltips=tooltip,
            point_policy="snap_to_data",
            # Only one picture is shown if many points overlap.
            limit=1,
        )
    )
    return chart


def legend(groups: list[str]) -> list[tuple[str, str]]:
    """Returns the names of groups with their colors in the map."""
    return [
        (name, _PALETTE[i % len(_PALETTE)]) for i, name in enumerate(groups)
    ]
