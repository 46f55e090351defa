//! Line plots as SVG: axes, legend, marks. Colours and dashes are classes of the page's style sheet, which has
//! variants for light and dark screens and for paper.
//!
//! Promises: for any points (none, one, not finite, all equal) the SVG is well-formed and all its coordinates
//! are finite. All text is escaped here. `<title>` elements show the values under the pointer, which needs no
//! script.

mod marks;
mod scale;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

pub use scale::Scale;

use crate::format;
use scale::{Range, bounds, linear_top, log_bounds, ticks};

const WIDTH: f64 = 960.0;
const PLOT_HEIGHT: f64 = 260.0;
const LEFT_MARGIN: f64 = 74.0;
const RIGHT_MARGIN: f64 = 18.0;
const BOTTOM_MARGIN: f64 = 46.0;
const ROW_HEIGHT: f64 = 19.0;
/// The approximate width of a character: enough to place legends and labels.
const CHARACTER_WIDTH: f64 = 6.6;
/// Lines in one plot at most: a reader cannot tell more apart.
pub const SERIES_MAX: usize = 16;
/// Columns that show values under the pointer, at most.
const COLUMNS_MAX: usize = 200;

/// The unit of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds since the start.
    Time,
    /// Microseconds.
    Micros,
    /// Requests a second.
    Rate,
    /// A number of things.
    Count,
    /// `-log10(1 - p)`: 1 is the 90th percentile, 2 the 99th.
    Nines,
}

impl Unit {
    fn format(self, value: f64) -> String {
        match self {
            Self::Time => format::moment(value),
            Self::Micros => format::micros(value),
            Self::Rate => format::rate(value),
            Self::Count => format::count(format::round_u64(value)),
            Self::Nines => format!("{} %", format::digits(100.0 - 10_f64.powf(2.0 - value), 9)),
        }
    }

    /// The label of a tick, shorter than [`Self::format`].
    fn tick(self, value: f64) -> String {
        match self {
            Self::Time if value == 0.0 => "0".into(),
            Self::Rate | Self::Count if value >= 10_000.0 => {
                if value >= 1e6 {
                    format!("{}M", format::digits(value / 1e6, 3))
                } else {
                    format!("{}k", format::digits(value / 1e3, 3))
                }
            }
            Self::Rate | Self::Count => format::digits(value, 3),
            _ => self.format(value),
        }
    }
}

/// One axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// The label.
    pub label: &'static str,
    /// The unit.
    pub unit: Unit,
    /// The scale.
    pub scale: Scale,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Series {
    /// The name in the legend. Not escaped yet.
    pub name: String,
    /// Points in order of x. The line breaks where a value is `None`.
    pub points: Vec<(f64, Option<f64>)>,
    /// The number of its colour and dash.
    pub style: usize,
    /// Whether the line is thinner and paler: it serves only for comparison.
    pub faint: bool,
    /// How points are marked: `true` is a disc, `false` a cross. Empty: they are not marked.
    pub dots: Vec<bool>,
}

impl Series {
    /// A line without dots.
    pub fn line(name: impl Into<String>, style: usize, points: Vec<(f64, Option<f64>)>) -> Self {
        Self { name: name.into(), points, style, faint: false, dots: Vec::new() }
    }

    /// The same, thinner and paler.
    pub fn faint(self) -> Self {
        Self { faint: true, ..self }
    }

    fn class(&self) -> String {
        let dash = (self.style + self.style / 8) % 4;
        format!("l s{} d{dash}{}", self.style % 8, if self.faint { " faint" } else { "" })
    }
}

/// A vertical line with a label.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The position.
    pub x: f64,
    /// The label beside its number. Not escaped yet.
    pub label: String,
    /// Whether the fault could not be carried out.
    pub failed: bool,
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Plot {
    /// Unique in the page, letters only.
    pub id: &'static str,
    /// The title, also for screen readers.
    pub title: String,
    /// A description in a sentence, for screen readers.
    pub description: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// The vertical lines, in order of x.
    pub marks: Vec<Mark>,
}

impl Plot {
    /// The SVG element.
    pub fn svg(&self) -> String {
        let (legend, legend_rows) = self.legend();
        let finite = |v: &f64| v.is_finite();
        let xs = self.series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).filter(finite);
        let (x_low, x_high) = match self.x.scale {
            Scale::Log => log_bounds(xs.filter(|x| *x > 0.0)),
            Scale::Linear => {
                let (low, high) = bounds(xs);
                let (low, high) = match self.x.unit {
                    // A second is drawn at its middle; the axis contains all of it.
                    Unit::Time => (0.0, high + if low < high { low.clamp(0.0, high) } else { 0.0 }),
                    Unit::Rate => (0.0, linear_top(high)),
                    _ => (low, high),
                };
                (low, if high > low { high } else { low + 1.0 })
            }
        };
        let ys = self.series.iter().flat_map(|s| s.points.iter().filter_map(|p| p.1)).filter(finite);
        let (y_low, y_high) = match self.y.scale {
            Scale::Log => log_bounds(ys.filter(|y| *y > 0.0)),
            Scale::Linear => (0.0, linear_top(bounds(ys).1)),
        };
        let x = Range {
            low: x_low,
            high: x_high,
            scale: self.x.scale,
            from: LEFT_MARGIN,
            to: WIDTH - RIGHT_MARGIN,
        };
        let marks = marks::place(&self.marks, &x);
        let top = 8.0 + ROW_HEIGHT * (legend_rows + marks.rows) as f64;
        let floor = top + PLOT_HEIGHT;
        let y = Range { low: y_low, high: y_high, scale: self.y.scale, from: floor, to: top };
        let height = floor + BOTTOM_MARGIN;

        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>",
            format::escape(&self.title),
            format::escape(&self.description),
            id = self.id
        );
        self.grid(&mut out, &x, &y);
        out.push_str(&legend);
        marks.draw(&mut out, ROW_HEIGHT * legend_rows as f64, floor);
        for series in &self.series {
            draw_line(&mut out, series, &x, &y);
        }
        self.columns(&mut out, &x, top, floor);
        out.push_str("</svg>");
        out
    }

    fn grid(&self, out: &mut String, x: &Range, y: &Range) {
        let right = WIDTH - RIGHT_MARGIN;
        for tick in ticks(&self.y, y.low, y.high) {
            let at = y.place(tick);
            let _ = write!(
                out,
                "<path class=\"g\" d=\"M{LEFT_MARGIN} {at:.1}H{right}\"/>\
                 <text class=\"e\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT_MARGIN - 8.0,
                at + 4.0,
                self.y.unit.tick(tick)
            );
        }
        let floor = y.from;
        for tick in ticks(&self.x, x.low, x.high) {
            let at = x.place(tick);
            let _ = write!(
                out,
                "<path class=\"a\" d=\"M{at:.1} {floor:.1}v5\"/>\
                 <text class=\"m\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                floor + 19.0,
                self.x.unit.tick(tick)
            );
        }
        let _ = write!(
            out,
            "<path class=\"a\" d=\"M{LEFT_MARGIN} {floor:.1}H{right}\"/>\
             <text class=\"m k\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"m k\" transform=\"translate(14 {:.1}) rotate(-90)\">{}</text>",
            f64::midpoint(LEFT_MARGIN, right),
            floor + 38.0,
            format::escape(self.x.label),
            f64::midpoint(floor, y.to),
            format::escape(self.y.label)
        );
    }

    /// The legend and its number of rows. A single line needs none: the title names it.
    fn legend(&self) -> (String, usize) {
        if self.series.len() < 2 {
            return (String::new(), 0);
        }
        let mut out = String::new();
        let mut x = LEFT_MARGIN;
        let mut row = 0_usize;
        for series in &self.series {
            let name = format::truncate(&series.name, 48);
            let width = 34.0 + CHARACTER_WIDTH * name.chars().count() as f64 + 18.0;
            if x > LEFT_MARGIN && x + width > WIDTH - RIGHT_MARGIN {
                x = LEFT_MARGIN;
                row += 1;
            }
            let y = 12.0 + ROW_HEIGHT * row as f64;
            let _ = write!(
                out,
                "<path class=\"{}\" d=\"M{x:.1} {:.1}h28\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                series.class(),
                y - 4.0,
                x + 34.0,
                format::escape(&name)
            );
            x += width;
        }
        (out, row + 1)
    }

    /// Invisible columns that show the values under the pointer.
    fn columns(&self, out: &mut String, x: &Range, top: f64, floor: f64) {
        let Some(longest) = self.series.iter().max_by_key(|s| s.points.len()) else { return };
        let points = &longest.points;
        let step = points.len().div_ceil(COLUMNS_MAX).max(1);
        let half = |a: f64, b: f64| f64::midpoint(x.place(a), x.place(b));
        for i in (0..points.len()).step_by(step) {
            let at = points[i].0;
            let left = if i == 0 { x.place(at) - 3.0 } else { half(points[i - 1].0, at) };
            let right = match points.get(i + step) {
                Some(next) => half(points[i + step - 1].0, next.0),
                None => x.place(points[points.len() - 1].0) + 3.0,
            };
            if !(left.is_finite() && right.is_finite()) {
                continue;
            }
            let _ = write!(
                out,
                "<rect class=\"h\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}",
                (right - left).max(0.5),
                floor - top,
                self.x.unit.format(at)
            );
            for series in &self.series {
                let nearest = if series.points.len() == points.len() {
                    series.points.get(i)
                } else {
                    let after = series.points.partition_point(|p| p.0 < at);
                    series.points.get(after).filter(|p| p.0 == at)
                };
                if let Some((_, Some(value))) = nearest {
                    let _ = write!(
                        out,
                        "\n{}: {}",
                        format::escape(&format::truncate(&series.name, 48)),
                        self.y.unit.format(*value)
                    );
                }
            }
            out.push_str("</title></rect>");
        }
    }
}

fn draw_line(out: &mut String, series: &Series, x: &Range, y: &Range) {
    let mut path = String::new();
    let mut dots = String::new();
    let mut pen_down = false;
    // A point between two gaps has no line and needs a dot.
    let alone = |i: usize| {
        let gap = |p: Option<&(f64, Option<f64>)>| p.is_none_or(|p| p.1.is_none());
        gap(i.checked_sub(1).and_then(|i| series.points.get(i))) && gap(series.points.get(i + 1))
    };
    for (i, (at, value)) in series.points.iter().enumerate() {
        let Some(value) = value.filter(|v| v.is_finite() && at.is_finite()) else {
            pen_down = false;
            continue;
        };
        let px = x.place(*at);
        let py = y.place(value);
        let _ = write!(path, "{}{px:.1} {py:.1}", if pen_down { 'L' } else { 'M' });
        pen_down = true;
        match series.dots.get(i) {
            Some(true) => {
                let _ = write!(
                    dots,
                    "<circle class=\"p s{}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4.5\"/>",
                    series.style % 8
                );
            }
            Some(false) => {
                let _ = write!(
                    dots,
                    "<path class=\"x\" d=\"M{:.1} {:.1}l10 10m0 -10l-10 10\"/>",
                    px - 5.0,
                    py - 5.0
                );
            }
            None if alone(i) => {
                let _ = write!(
                    dots,
                    "<circle class=\"p s{}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"2\"/>",
                    series.style % 8
                );
            }
            None => {}
        }
    }
    if !path.is_empty() {
        let _ = write!(out, "<path class=\"{}\" d=\"{path}\"/>", series.class());
    }
    out.push_str(&dots);
}
