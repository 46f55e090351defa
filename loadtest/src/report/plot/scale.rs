//! The scale of an axis: from values to coordinates, with round bounds and round ticks.

use super::{Axis, Unit};
use crate::format;

/// How values become coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// Decades.
    Log,
}

/// A range of values and the coordinates between which it is drawn.
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) scale: Scale,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Range {
    /// The coordinate of a value; values outside are drawn at the edge.
    pub(super) fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => {
                (value.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
            }
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }
}

/// The lowest and the highest value; 0 and 1 if there is none.
pub(super) fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// 1, 2 or 5 times a power of ten around all values, at least a factor of ten apart.
pub(super) fn log_bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
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

/// A round number not below `high`, so that the highest value lies inside the plot.
pub(super) fn linear_top(high: f64) -> f64 {
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

/// The values at which an axis has ticks.
pub(super) fn ticks(axis: &Axis, low: f64, high: f64) -> Vec<f64> {
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
            let count = format::round_u64(((high - low) / step + 0.01).floor()).min(40);
            (0..=count).map(|i| (first + i as f64) * step).filter(|v| *v <= high + step * 0.01).collect()
        }
    }
}
