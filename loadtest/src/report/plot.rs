//! Line plots as SVG text: axes, legend, marks; colours and dashes are classes that the page's style sheet
//! gives a colour for light, dark and paper.
//!
//! Promises: whatever the points are (none, one, not finite, all equal), what comes out is well-formed and
//! all its coordinates are finite. All text is escaped here. Values under the pointer are shown by `<title>`,
//! which needs no script.

use std::fmt::Write as _;

use super::words;

const WIDTH: f64 = 960.0;
const PLOT_HEIGHT: f64 = 260.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 18.0;
const BOTTOM: f64 = 46.0;
const ROW: f64 = 19.0;
/// How wide a character is, about: enough to place legends and labels.
const CHARACTER: f64 = 6.6;
/// Lines in one plot beyond which nobody tells them apart.
pub const MAX_SERIES: usize = 16;
/// Marks in one plot.
const MAX_MARKS: usize = 60;
/// Columns that show values under the pointer.
const MAX_COLUMNS: usize = 200;

/// How values become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// Decades.
    Log,
}

/// What the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds since the start.
    Time,
    /// Microseconds.
    Micros,
    /// Requests a second.
    Rate,
    /// How many.
    Count,
    /// `-log10(1 - p)`: 1 is the 90th percentile, 2 the 99th.
    Nines,
}

impl Unit {
    fn say(self, value: f64) -> String {
        match self {
            Self::Time => words::moment(value),
            Self::Micros => words::micros(value),
            Self::Rate => words::rate(value),
            Self::Count => words::count(words::whole(value)),
            Self::Nines => format!("{} %", words::digits(100.0 - 10_f64.powf(2.0 - value), 9)),
        }
    }

    /// Shorter than [`Self::say`]: there is one at each tick.
    fn tick(self, value: f64) -> String {
        match self {
            Self::Time if value == 0.0 => "0".into(),
            Self::Rate | Self::Count if value >= 10_000.0 => {
                if value >= 1e6 {
                    format!("{}M", words::digits(value / 1e6, 3))
                } else {
                    format!("{}k", words::digits(value / 1e3, 3))
                }
            }
            Self::Rate | Self::Count => words::digits(value, 3),
            _ => self.say(value),
        }
    }
}

/// One axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it shows.
    pub label: &'static str,
    /// In what.
    pub unit: Unit,
    /// How.
    pub scale: Scale,
}

/// One line.
#[derive(Debug, Clone)]
pub struct Series {
    /// In the legend. Not escaped yet.
    pub name: String,
    /// In order of x; nothing where there is nothing to show, and the line breaks there.
    pub points: Vec<(f64, Option<f64>)>,
    /// Which colour and dash.
    pub style: usize,
    /// Thinner and paler, for what is only there to compare with.
    pub faint: bool,
    /// Whether single points are marked, and how: `true` a disc, `false` a cross. Empty: no points.
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
    /// Where.
    pub x: f64,
    /// Beside its number. Not escaped yet.
    pub label: String,
    /// What was meant and did not happen.
    pub failed: bool,
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Plot {
    /// Unique in the page, letters only.
    pub id: &'static str,
    /// For those who do not see it, too.
    pub title: String,
    /// What can be seen in it, in a sentence.
    pub description: String,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// The lines.
    pub series: Vec<Series>,
    /// The vertical lines, in order of x.
    pub marks: Vec<Mark>,
}

/// From values to places.
struct Range {
    low: f64,
    high: f64,
    scale: Scale,
    from: f64,
    to: f64,
}

impl Range {
    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => {
                (value.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
            }
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }
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
                    // A second is drawn at its middle; the axis has all of it.
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
        let x = Range { low: x_low, high: x_high, scale: self.x.scale, from: LEFT, to: WIDTH - RIGHT };
        let (mark_rows, placed) = self.place_marks(&x);
        let top = 8.0 + ROW * (legend_rows + mark_rows) as f64;
        let floor = top + PLOT_HEIGHT;
        let y = Range { low: y_low, high: y_high, scale: self.y.scale, from: floor, to: top };
        let height = floor + BOTTOM;

        let mut out = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>",
            words::text(&self.title),
            words::text(&self.description),
            id = self.id
        );
        self.grid(&mut out, &x, &y);
        out.push_str(&legend);
        self.draw_marks(&mut out, &placed, ROW * legend_rows as f64, top, floor);
        for series in &self.series {
            draw_line(&mut out, series, &x, &y);
        }
        self.columns(&mut out, &x, top, floor);
        out.push_str("</svg>");
        out
    }

    fn grid(&self, out: &mut String, x: &Range, y: &Range) {
        let right = WIDTH - RIGHT;
        for tick in ticks(&self.y, y.low, y.high) {
            let at = y.place(tick);
            let _ = write!(
                out,
                "<path class=\"g\" d=\"M{LEFT} {at:.1}H{right}\"/>\
                 <text class=\"e\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 8.0,
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
            "<path class=\"a\" d=\"M{LEFT} {floor:.1}H{right}\"/>\
             <text class=\"m k\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <text class=\"m k\" transform=\"translate(14 {:.1}) rotate(-90)\">{}</text>",
            f64::midpoint(LEFT, right),
            floor + 38.0,
            words::text(self.x.label),
            f64::midpoint(floor, y.to),
            words::text(self.y.label)
        );
    }

    /// The legend's elements and its rows. One line needs none: the title says what it is.
    fn legend(&self) -> (String, usize) {
        if self.series.len() < 2 {
            return (String::new(), 0);
        }
        let mut out = String::new();
        let (mut x, mut row) = (LEFT, 0_usize);
        for series in &self.series {
            let name = words::short(&series.name, 48);
            let width = 34.0 + CHARACTER * name.chars().count() as f64 + 18.0;
            if x > LEFT && x + width > WIDTH - RIGHT {
                (x, row) = (LEFT, row + 1);
            }
            let y = 12.0 + ROW * row as f64;
            let _ = write!(
                out,
                "<path class=\"{}\" d=\"M{x:.1} {:.1}h28\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                series.class(),
                y - 4.0,
                x + 34.0,
                words::text(&name)
            );
            x += width;
        }
        (out, row + 1)
    }

    /// In which row each mark's label stands, or that there is room for its number only.
    fn place_marks<'a>(&'a self, x: &Range) -> (usize, Vec<(f64, &'a Mark, usize, bool)>) {
        const ROWS: usize = 3;
        let mut free_from = [0.0_f64; ROWS];
        let mut placed = Vec::new();
        let mut rows = 0;
        for mark in self.marks.iter().filter(|m| m.x.is_finite()).take(MAX_MARKS) {
            let at = x.place(mark.x);
            let width = 20.0 + CHARACTER * mark.label.chars().count() as f64;
            let number_only = 18.0;
            // To the left of its line where the right edge is near.
            let left = at + width > WIDTH;
            let start = if left { at + 10.0 - width } else { at - 9.0 };
            let row = (0..ROWS).find(|row| start >= free_from[*row]);
            let (row, labelled) = match row {
                Some(row) => (row, true),
                None => {
                    ((0..ROWS).min_by(|a, b| free_from[*a].total_cmp(&free_from[*b])).unwrap_or(0), false)
                }
            };
            let end = if !labelled || left { at + number_only / 2.0 } else { start + width };
            free_from[row] = free_from[row].max(end + 4.0);
            rows = rows.max(row + 1);
            placed.push((at, mark, row, labelled));
        }
        (rows, placed)
    }

    fn draw_marks(
        &self,
        out: &mut String,
        placed: &[(f64, &Mark, usize, bool)],
        above: f64,
        top: f64,
        floor: f64,
    ) {
        for (number, (at, mark, row, labelled)) in placed.iter().enumerate() {
            let number = number + 1;
            let y = above + 12.0 + ROW * *row as f64;
            let class = if mark.failed { "f not" } else { "f" };
            let _ = write!(
                out,
                "<g class=\"{class}\"><title>{number}: {} at {}</title>\
                 <path d=\"M{at:.1} {y:.1}V{floor:.1}\"/><circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"8\"/>\
                 <text class=\"n\" x=\"{at:.1}\" y=\"{:.1}\">{number}</text>",
                words::text(&mark.label),
                words::moment(mark.x),
                y - 4.0,
                y - 0.5
            );
            if *labelled {
                let width = 20.0 + CHARACTER * mark.label.chars().count() as f64;
                let (anchor, x) = if at + width > WIDTH { ("e", at - 12.0) } else { ("", at + 12.0) };
                let _ = write!(
                    out,
                    "<text class=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
                    words::text(&mark.label)
                );
            }
            out.push_str("</g>");
        }
        debug_assert!(top <= floor);
    }

    /// Invisible columns that say the values under the pointer.
    fn columns(&self, out: &mut String, x: &Range, top: f64, floor: f64) {
        let Some(longest) = self.series.iter().max_by_key(|s| s.points.len()) else { return };
        let points = &longest.points;
        let step = points.len().div_ceil(MAX_COLUMNS).max(1);
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
                self.x.unit.say(at)
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
                        words::text(&words::short(&series.name, 48)),
                        self.y.unit.say(*value)
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
    // A point between two gaps has no line, and would not be seen.
    let alone = |i: usize| {
        let gap = |p: Option<&(f64, Option<f64>)>| p.is_none_or(|p| p.1.is_none());
        gap(i.checked_sub(1).and_then(|i| series.points.get(i))) && gap(series.points.get(i + 1))
    };
    for (i, (at, value)) in series.points.iter().enumerate() {
        let Some(value) = value.filter(|v| v.is_finite() && at.is_finite()) else {
            pen_down = false;
            continue;
        };
        let (px, py) = (x.place(*at), y.place(value));
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

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// 1, 2 or 5 times a power of ten around all values, at least a factor of ten apart.
fn log_bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = bounds(values.map(|v| v.clamp(1e-9, 1e15)));
    let (mut low, mut high) = if low > 0.0 { (low, high) } else { (1.0, 10.0) };
    low = one_two_five(low).filter(|v| *v <= low * 1.000_001).last().unwrap_or(low);
    high = one_two_five(high).find(|v| *v >= high * 0.999_999).unwrap_or(high);
    if high < low * 10.0 {
        high = low * 10.0;
    }
    (low, high)
}

/// 1, 2, 5 and 10 times the power of ten below.
fn one_two_five(value: f64) -> impl Iterator<Item = f64> {
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(move |m| m * decade)
}

/// A round number not below, so that the highest value is seen inside.
fn linear_top(high: f64) -> f64 {
    if high <= 0.0 {
        return 1.0;
    }
    let step = round_step(high);
    (high * 1.02 / step).ceil() * step
}

/// A step of 1, 2, 2.5 or 5 times a power of ten: four to seven of them in `span`.
fn round_step(span: f64) -> f64 {
    let rough = span / 5.0;
    let decade = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * decade).find(|s| *s >= rough * 0.999).unwrap_or(rough)
}

fn ticks(axis: &Axis, low: f64, high: f64) -> Vec<f64> {
    const TIMES: [f64; 19] = [
        1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0,
        10_800.0, 21_600.0, 43_200.0, 86_400.0, 604_800.0,
    ];
    match (axis.scale, axis.unit) {
        (Scale::Log, _) => {
            let decades = (high / low).log10();
            let steps: &[f64] = if decades <= 3.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let mut decade = 10_f64.powf(low.log10().floor());
            let mut out = Vec::new();
            while decade <= high * 1.001 && out.len() < 60 {
                let inside = |v: &f64| *v >= low * 0.999 && *v <= high * 1.001;
                out.extend(steps.iter().map(|s| s * decade).filter(inside));
                decade *= 10.0;
            }
            out
        }
        (Scale::Linear, unit) => {
            let step = match unit {
                Unit::Time => {
                    TIMES.into_iter().find(|s| (high - low) / s <= 10.0).unwrap_or((high - low) / 10.0)
                }
                Unit::Nines => 1.0,
                _ => round_step(high - low).max(if unit == Unit::Count { 1.0 } else { 0.0 }),
            };
            let first = (low / step - 0.001).ceil();
            let count = words::whole(((high - low) / step + 0.01).floor()).min(40);
            (0..=count).map(|i| (first + i as f64) * step).filter(|v| *v <= high + step * 0.01).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, Option<f64>)>, scale: Scale) -> Plot {
        Plot {
            id: "test",
            title: "<t>".into(),
            description: "a & b".into(),
            x: Axis { label: "time", unit: Unit::Time, scale: Scale::Linear },
            y: Axis { label: "latency", unit: Unit::Micros, scale },
            series: vec![Series::line("one", 0, points.clone()), Series::line("<two>", 1, points)],
            marks: Vec::new(),
        }
    }

    fn coordinates_are_finite(svg: &str) {
        for bad in ["NaN", "inf", "nan"] {
            assert!(!svg.contains(bad), "{bad} in {}", words::short(svg, 600));
        }
        assert!(svg.contains("&lt;t&gt;") && svg.contains("a &amp; b") && !svg.contains("<two>"));
    }

    #[test]
    fn odd_points_make_a_plot_nevertheless() {
        for scale in [Scale::Linear, Scale::Log] {
            for points in [
                vec![],
                vec![(0.0, None)],
                vec![(0.0, Some(0.0))],
                vec![(5.0, Some(7.0))],
                vec![(0.0, Some(7.0)), (1.0, Some(7.0))],
                vec![(0.0, Some(f64::NAN)), (f64::NAN, Some(1.0)), (1.0, Some(f64::INFINITY))],
                vec![(0.0, Some(1e300)), (1.0, Some(1e-300))],
            ] {
                coordinates_are_finite(&plot(points, scale).svg());
            }
        }
    }

    #[test]
    fn a_line_breaks_where_nothing_was_measured() {
        let svg =
            plot(vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(1.0)), (3.0, Some(2.0))], Scale::Log).svg();
        let path = svg.split("class=\"l s0 d0\" d=\"").last().unwrap().split('"').next().unwrap();
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert!(svg.contains("<circle"), "a point alone is seen");
    }

    #[test]
    fn ticks_are_round() {
        let axis = |unit, scale| Axis { label: "", unit, scale };
        let of = |unit, scale, low, high| {
            ticks(&axis(unit, scale), low, high).into_iter().map(|t| unit.tick(t)).collect::<Vec<_>>()
        };
        assert_eq!(of(Unit::Time, Scale::Linear, 0.0, 90.0)[..4], ["0", "10 s", "20 s", "30 s"]);
        assert_eq!(of(Unit::Time, Scale::Linear, 0.0, 86_399.0)[..2], ["0", "3:00:00"]);
        assert_eq!(of(Unit::Rate, Scale::Linear, 0.0, 60_000.0), ["0", "20k", "40k", "60k"]);
        assert_eq!(
            of(Unit::Micros, Scale::Log, 200.0, 5_000.0),
            ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms"]
        );
        assert_eq!(
            of(Unit::Nines, Scale::Linear, 0.0, 5.2),
            ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]
        );
    }

    #[test]
    fn marks_that_stand_close_are_numbered_and_stay_inside() {
        let mut plot = plot((0..100).map(|i| (f64::from(i), Some(1.0))).collect(), Scale::Log);
        plot.marks = (0..80)
            .map(|i| Mark { x: f64::from(i) * 1.3, label: format!("kill <n{i}>"), failed: i % 7 == 0 })
            .collect();
        let svg = plot.svg();
        coordinates_are_finite(&svg);
        assert_eq!(svg.matches("<g class=\"f").count(), MAX_MARKS);
        assert!(svg.contains("kill &lt;n0&gt;") && !svg.contains("<n0>"));
    }
}
