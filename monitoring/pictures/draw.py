#!/usr/bin/python3
"""Draws a Grafana dashboard from what a Prometheus holds, as pictures.

    draw.py --prometheus URL --scrape-interval SECONDS --from UNIXTIME --to UNIXTIME
            [--folder DIR] DASHBOARD.json NAME.png=ROW,ROW… …

Each picture shows the named rows; each row of the dashboard has to be in one picture. The expressions
are those of the panels, with the variables filled in as Grafana would: $instance is All, and
$__rate_interval follows from the range, the width of the panel and the scrape interval. Beside the
pictures nothing is written. A panel without data is named on stderr, and the exit status is 1.

It knows what our dashboard uses: timeseries, stat, bargauge, state-timeline; units, thresholds,
value and range mappings, stacking, bars, a logarithmic axis, legends. Anything else is an error rather than a
picture that is not true.
"""

import argparse
import datetime
import json
import math
import os
import re
import sys
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from PIL import Image

WIDTH = 1280  # pixels, of 24 columns
ROW = 34  # pixels of one row of Grafana's grid
GAP = 4
PAGE, PANEL, EDGE = "#111217", "#181b1f", "#2b2e34"
TEXT, FAINT, GRID = "#d8d9df", "#9a9ca6", "#2f323a"
PALETTE = ["#73BF69", "#F2CC0C", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9", "#A0A6B5", "#56A64B", "#FFB357"]
COLORS = {"green": "#37872D", "orange": "#D9620C", "red": "#C4162A", "blue": "#1F60C4", "text": "#2b2e34"}
# Steps that Grafana rounds to, in seconds.
STEPS = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600]
NAN = float("nan")


# --- numbers as Grafana prints them ---------------------------------------------------------------


def digits(value):
    """Three digits that count, without trailing zeros."""
    if value == 0:
        return "0"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(value, factor, suffixes):
    index = 0
    while abs(value) >= factor and index < len(suffixes) - 1:
        value /= factor
        index += 1
    return digits(value) + suffixes[index]


def seconds(value):
    size = abs(value)
    if size == 0:
        return "0 s"
    for limit, divisor, suffix in ((0.001, 1e-6, "µs"), (1, 1e-3, "ms"), (60, 1, "s"), (3600, 60, "mins"),
                                   (86400, 3600, "hours"), (604800, 86400, "days"), (31557600, 604800, "weeks")):
        if size < limit:
            return f"{digits(value / divisor)} {suffix}"
    return f"{digits(value / 31557600)} years"


UNITS = {
    "none": digits,
    "short": lambda v: scaled(v, 1000, ["", " K", " Mil", " Bil"]),
    "s": seconds,
    "percentunit": lambda v: digits(v * 100) + "%",
    "bytes": lambda v: scaled(v, 1024, [" B", " KiB", " MiB", " GiB"]),
    "reqps": lambda v: scaled(v, 1000, [" req/s", " K req/s"]),
    "cpm": lambda v: scaled(v, 1000, [" /min", " K /min"]),
}


class Field:
    """What a panel says of its values: unit, mappings, thresholds."""

    def __init__(self, panel):
        self.defaults = panel["fieldConfig"]["defaults"]
        if panel["fieldConfig"]["overrides"]:
            raise SystemExit(f"{panel['title']}: overrides are not known here")
        self.custom = self.defaults.get("custom", {})
        self.format = UNITS[self.defaults["unit"]]
        self.steps = self.defaults.get("thresholds", {}).get("steps", [])

    def mapping(self, value):
        for mapping in self.defaults.get("mappings") or []:
            options = mapping["options"]
            if mapping["type"] == "value" and f"{value:g}" in options:
                return options[f"{value:g}"]
            if mapping["type"] == "range":
                low = -math.inf if options["from"] is None else options["from"]
                high = math.inf if options["to"] is None else options["to"]
                if low <= value <= high:
                    return options["result"]
        return {}

    def text(self, value):
        return self.mapping(value).get("text") or self.format(value)

    def color(self, value):
        name = self.mapping(value).get("color")
        if not name:
            for step in self.steps:
                if step["value"] is None or value >= step["value"]:
                    name = step["color"]
        return COLORS.get(name or "text", name)


# --- Prometheus -----------------------------------------------------------------------------------


class Source:
    def __init__(self, arguments):
        self.url = arguments.prometheus
        self.start, self.end = arguments.start, arguments.end
        self.scrape = arguments.scrape_interval

    def step(self, pixels):
        ideal = max((self.end - self.start) / pixels, self.scrape)
        return next((step for step in STEPS if step >= ideal), STEPS[-1])

    def ask(self, path, **arguments):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=30) as reply:
            return json.load(reply)["data"]["result"]

    def series(self, target, pixels):
        """[(legend, times, values)], NaN where there is no sample; of an instant query, one value."""
        step = self.step(pixels)
        expression = target["expr"].replace("$__rate_interval", f"{max(step + self.scrape, 4 * self.scrape)}s")
        expression = expression.replace("$__range", f"{self.end - self.start}s").replace("$__interval", f"{step}s")
        expression = re.sub(r"\$instance\b", ".*", expression)
        if "$" in expression:
            raise SystemExit(f"a variable that is not known here: {expression}")
        found = []
        if target.get("instant"):
            for one in self.ask("query", query=expression, time=self.end):
                found.append((legend(target, one["metric"]), [self.end], [float(one["value"][1])]))
            return found
        times = list(range(self.start, self.end + 1, step))
        for one in self.ask("query_range", query=expression, start=self.start, end=self.end, step=step):
            samples = {round(moment): float(value) for moment, value in one["values"]}
            found.append((legend(target, one["metric"]), times, [samples.get(moment, NAN) for moment in times]))
        return found


def legend(target, labels):
    text = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: labels.get(m.group(1), ""), target["legendFormat"])
    text = " ".join(text.split())
    if not text:
        raise SystemExit(f"an empty legend: {target['expr']}")
    return text


# --- the canvas: pixels from the upper left corner ------------------------------------------------


class Canvas:
    def __init__(self, height):
        self.height = height
        self.figure = pyplot.figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor=PAGE)

    def box(self, x, y, w, h, color, edge=None, zorder=1):
        self.figure.add_artist(Rectangle(
            (x / WIDTH, 1 - (y + h) / self.height), w / WIDTH, h / self.height, facecolor=color,
            edgecolor=edge or color, linewidth=0.8, zorder=zorder, transform=self.figure.transFigure))

    def text(self, x, y, words, size=9, color=TEXT, align="left", weight="normal", base="center"):
        self.figure.text(x / WIDTH, 1 - y / self.height, words, fontsize=size, color=color, ha=align, va=base,
                         fontweight=weight, fontfamily="DejaVu Sans", parse_math=False)

    def axes(self, x, y, w, h):
        return self.figure.add_axes((x / WIDTH, 1 - (y + h) / self.height, w / WIDTH, h / self.height), facecolor=PANEL)

    def save(self, path):
        self.figure.savefig(path, facecolor=PAGE)
        pyplot.close(self.figure)
        # A palette is half of the size.
        with Image.open(path) as image:
            image.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


def width_of(words, size):
    """Pixels at 100 dpi."""
    return TextPath((0, 0), words or " ", size=size * 100 / 72).get_extents().width if words.strip() else 0


def fit(words, size, room):
    if width_of(words, size) <= room:
        return words
    while words and width_of(words + "…", size) > room:
        words = words[:-1]
    return words + "…"


# --- panels ---------------------------------------------------------------------------------------


def clock(moment):
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).strftime("%H:%M")


def time_axis(axes, source):
    axes.set_xlim(source.start, source.end)
    ticks = [t for t in range(source.start - source.start % 60, source.end + 1, 60) if t >= source.start]
    axes.set_xticks(ticks, [clock(t) for t in ticks])


def plain_axes(axes):
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=FAINT, labelsize=7.5, length=0, pad=3)
    axes.grid(True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def legend_lines(entries, room):
    """Legends below a panel, flowing: lines of (name, color, x)."""
    lines, x = [[]], 0
    for name, color in entries:
        name = fit(name, 8, room - 24)
        size = 18 + width_of(name, 8) + 14
        if x and x + size > room:
            lines.append([])
            x = 0
        lines[-1].append((name, color, x))
        x += size
    return lines


def draw_legend(canvas, lines, x, bottom):
    y = bottom - 15 * len(lines) + 6
    for line in lines:
        for name, color, offset in line:
            canvas.box(x + offset, y - 2, 12, 3, color)
            canvas.text(x + offset + 17, y, name, 8, TEXT)
        y += 15


def timeseries(canvas, panel, field, all_series, source, x, y, w, h):
    custom = field.custom
    names = [name for name, _, _ in all_series]
    lines = legend_lines([(name, PALETTE[i % len(PALETTE)]) for i, name in enumerate(names)], w - 24)
    left, top, bottom = 62, 32, 24 + 15 * len(lines) + 4
    axes = canvas.axes(x + left, y + top, w - left - 14, h - top - bottom)
    plain_axes(axes)
    stacked = custom["stacking"]["mode"] == "normal"
    scale = custom.get("scaleDistribution", {"type": "linear"})
    if scale["type"] == "log":
        axes.set_yscale("log", base=scale["log"])
    below = None
    for index, (_, times, values) in enumerate(all_series):
        color = PALETTE[index % len(PALETTE)]
        if stacked:
            values = [0 if math.isnan(v) else v for v in values]
            below = below or [0] * len(values)
            over = [a + b for a, b in zip(below, values)]
        else:
            below, over = [0] * len(values), values
        if custom["drawStyle"] == "bars":
            axes.bar(times, [a - b for a, b in zip(over, below)], source.step(w) * 0.9, below, color=color,
                     alpha=custom["fillOpacity"] / 100)
        else:
            axes.fill_between(times, below, over, color=color, alpha=custom["fillOpacity"] / 100, linewidth=0)
            axes.plot(times, over, color=color, linewidth=1.3)
        if custom["showPoints"] == "auto":
            alone = [i for i, v in enumerate(over) if not math.isnan(v)
                     and (i == 0 or math.isnan(over[i - 1])) and (i + 1 == len(over) or math.isnan(over[i + 1]))]
            axes.plot([times[i] for i in alone], [over[i] for i in alone], "o", color=color, markersize=3)
        if stacked:
            below = over
    time_axis(axes, source)
    if scale["type"] == "linear":
        low, high = axes.get_ylim()
        low = field.defaults.get("min", low)
        if all(v == low or math.isnan(v) for _, _, values in all_series for v in values):
            high = low + 1
        axes.set_ylim(low, field.defaults.get("max", high * 1.04))
        whole = field.defaults.get("decimals") == 0
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole))
    if custom.get("thresholdsStyle", {}).get("mode") == "line":
        for step in field.steps:
            if step["value"] is not None and step["value"] <= axes.get_ylim()[1]:
                axes.axhline(step["value"], color=COLORS[step["color"]], linewidth=1.2)
    axes.yaxis.set_major_formatter(lambda value, _: field.text(value))
    draw_legend(canvas, lines, x + 12, y + h - 4)


def stat(canvas, panel, field, all_series, source, x, y, w, h):
    count = len(all_series)
    top = y + 28
    tile = (h - 34) / count
    for index, (name, _, values) in enumerate(all_series):
        canvas.box(x + 6, top + index * tile, w - 12, tile - (4 if index + 1 < count else 0), field.color(values[-1]))
        words = field.text(values[-1])
        middle = top + index * tile + tile / 2
        if count == 1:
            canvas.text(x + w / 2, middle, words, min(25, 25 * (w - 30) / max(width_of(words, 25), 1)), "white", "center")
        else:
            canvas.text(x + 14, middle, fit(name, 9, w - 60 - width_of(words, 12)), 9, "white")
            canvas.text(x + w - 14, middle, words, 12, "white", "right")


def bargauge(canvas, panel, field, all_series, source, x, y, w, h):
    top, room = y + 32, h - 40
    row = min(room / len(all_series), 34)
    names = [fit(name, 8.5, 190) for name, _, _ in all_series]
    label = max(width_of(name, 8.5) for name in names) + 18
    known = [v[-1] for _, _, v in all_series if not field.mapping(v[-1])]
    most = field.defaults.get("max", max(known, default=1) or 1)
    for index, (_, _, values) in enumerate(all_series):
        middle = top + row * (index + 0.5)
        words = field.text(values[-1])
        bar = w - label - 100
        canvas.text(x + label, middle, names[index], 8.5, TEXT, "right")
        canvas.box(x + label + 8, middle - row * 0.34, bar, row * 0.68, EDGE)
        part = min(max(values[-1] / most, 0), 1)
        canvas.box(x + label + 8, middle - row * 0.34, max(bar * part, 2), row * 0.68, field.color(values[-1]))
        canvas.text(x + w - 12, middle, words, 10, TEXT, "right")


def state_timeline(canvas, panel, field, all_series, source, x, y, w, h):
    names = [fit(name, 8.5, 230) for name, _, _ in all_series]
    label = max(width_of(name, 8.5) for name in names) + 20
    axes = canvas.axes(x + label, y + 30, w - label - 14, h - 76)
    plain_axes(axes)
    axes.grid(False)
    time_axis(axes, source)
    axes.set_ylim(len(all_series), 0)
    axes.set_yticks([i + 0.5 for i in range(len(names))], names, color=TEXT, fontsize=8.5)
    shown = {}
    for row, (_, times, values) in enumerate(all_series):
        begin = 0
        for i in range(1, len(values) + 1):
            if i < len(values) and (values[i] == values[begin] or math.isnan(values[i]) and math.isnan(values[begin])):
                continue
            if not math.isnan(values[begin]):
                words, color = field.text(values[begin]), field.color(values[begin])
                shown[words] = color
                until = times[i] if i < len(times) else source.end
                axes.add_patch(Rectangle((times[begin], row + 0.08), until - times[begin], 0.84, color=color, linewidth=0))
                pixels = (until - times[begin]) / (source.end - source.start) * (w - label - 14)
                if pixels > width_of(words, 8) + 8:
                    axes.text(times[begin] + 4 / (w - label) * (source.end - source.start), row + 0.5, words, color="white",
                              fontsize=8, va="center")
            begin = i
    draw_legend(canvas, legend_lines(sorted(shown.items()), w - 24), x + 12, y + h - 4)


TYPES = {"timeseries": timeseries, "stat": stat, "bargauge": bargauge, "state-timeline": state_timeline}


def draw_panel(canvas, panel, source, offset):
    """False where it has nothing to show."""
    grid = panel["gridPos"]
    column = WIDTH / 24
    x, y = grid["x"] * column + GAP, (grid["y"] - offset) * ROW + GAP
    w, h = grid["w"] * column - 2 * GAP, grid["h"] * ROW - 2 * GAP
    canvas.box(x, y, w, h, PANEL, EDGE, zorder=-1)  # behind the axes
    canvas.text(x + 10, y + 15, fit(panel["title"], 9.5, w - 20), 9.5, TEXT, weight="bold")
    field = Field(panel)
    found = []
    for target in panel["targets"]:
        found += sorted(source.series(target, w))
    found = [one for one in found if not all(math.isnan(value) for value in one[2])]
    if not found:
        canvas.text(x + w / 2, y + h / 2, "No data", 11, FAINT, "center")
        return False
    names = [name for name, _, _ in found]
    if len(set(names)) < len(names):
        raise SystemExit(f"{panel['title']}: two series have the same legend: {names}")
    TYPES[panel["type"]](canvas, panel, field, found, source, x, y, w, h)
    return True


def rows_of(dashboard):
    """{title of a row: its panels}, in the dashboard's order."""
    rows = {}
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            rows[panel["title"]] = current = [panel]
        else:
            current.append(panel)
    return rows


def draw(rows, titles, source, path):
    empty, bands = [], []
    height = 0
    for title in titles:
        top = rows[title][0]["gridPos"]["y"]
        bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in rows[title])
        bands.append((rows[title], top - height))
        height += bottom - top
    canvas = Canvas(height * ROW + GAP)
    for panels, offset in bands:
        canvas.text(12, (panels[0]["gridPos"]["y"] - offset) * ROW + ROW / 2 + 2, "▾  " + panels[0]["title"], 11, TEXT, weight="bold")
        for panel in panels[1:]:
            if not draw_panel(canvas, panel, source, offset):
                empty.append(panel["title"])
    canvas.save(path)
    return empty


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--scrape-interval", type=int, required=True)
    parser.add_argument("--from", dest="start", type=int, required=True)
    parser.add_argument("--to", dest="end", type=int, required=True)
    parser.add_argument("--folder", default=".")
    parser.add_argument("dashboard")
    parser.add_argument("pictures", nargs="+")
    arguments = parser.parse_args()
    with open(arguments.dashboard, encoding="utf-8") as file:
        rows = rows_of(json.load(file))
    pictures = {name: titles.split(",") for name, _, titles in (p.partition("=") for p in arguments.pictures)}
    if sorted(title for titles in pictures.values() for title in titles) != sorted(rows):
        raise SystemExit(f"each row belongs into one picture: {', '.join(rows)}")
    source, empty = Source(arguments), []
    for name, titles in pictures.items():
        path = os.path.join(arguments.folder, name)
        empty += draw(rows, titles, source, path)
        print(f"{path}: {os.path.getsize(path) // 1024} kB")
    if empty:
        raise SystemExit("nothing to show: " + ", ".join(empty))


if __name__ == "__main__":
    main()
