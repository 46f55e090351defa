//! Marks: numbered vertical lines with labels above the plot.

use std::fmt::Write as _;

use super::scale::Range;
use super::{CHARACTER_WIDTH, Mark, ROW_HEIGHT, WIDTH};
use crate::format;

/// Marks in one plot at most.
pub(super) const MARKS_MAX: usize = 60;
/// Rows of labels at most.
const ROWS_MAX: usize = 3;
/// The width of a number in its circle.
const NUMBER_WIDTH: f64 = 18.0;

/// Marks and the rows in which their labels stand.
pub(super) struct PlacedMarks<'a> {
    pub(super) rows: usize,
    marks: Vec<PlacedMark<'a>>,
}

struct PlacedMark<'a> {
    mark: &'a Mark,
    /// The coordinate of the line.
    at: f64,
    row: usize,
    /// False if there is room for the number only.
    labelled: bool,
}

fn width(mark: &Mark) -> f64 {
    20.0 + CHARACTER_WIDTH * mark.label.chars().count() as f64
}

/// Chooses a row for each label; a mark whose label fits in no row is only numbered.
pub(super) fn place<'a>(marks: &'a [Mark], x: &Range) -> PlacedMarks<'a> {
    let mut free_from = [0.0_f64; ROWS_MAX];
    let mut placed = PlacedMarks { rows: 0, marks: Vec::new() };
    for mark in marks.iter().filter(|m| m.x.is_finite()).take(MARKS_MAX) {
        let at = x.place(mark.x);
        let width = width(mark);
        // Near the right edge, the label stands to the left of its line.
        let left = at + width > WIDTH;
        let start = if left { at + 10.0 - width } else { at - 9.0 };
        let free = (0..ROWS_MAX).find(|row| start >= free_from[*row]);
        let labelled = free.is_some();
        let emptiest = || (0..ROWS_MAX).min_by(|a, b| free_from[*a].total_cmp(&free_from[*b])).unwrap_or(0);
        let row = free.unwrap_or_else(emptiest);
        let end = if !labelled || left { at + NUMBER_WIDTH / 2.0 } else { start + width };
        free_from[row] = free_from[row].max(end + 4.0);
        placed.rows = placed.rows.max(row + 1);
        placed.marks.push(PlacedMark { mark, at, row, labelled });
    }
    placed
}

impl PlacedMarks<'_> {
    /// Draws the lines from below `above` down to `floor`.
    pub(super) fn draw(&self, out: &mut String, above: f64, floor: f64) {
        for (number, PlacedMark { mark, at, row, labelled }) in (1..).zip(&self.marks) {
            let y = above + 12.0 + ROW_HEIGHT * *row as f64;
            let class = if mark.failed { "f not" } else { "f" };
            let label = format::escape(&mark.label);
            let _ = write!(
                out,
                "<g class=\"{class}\"><title>{number}: {label} at {}</title>\
                 <path d=\"M{at:.1} {y:.1}V{floor:.1}\"/><circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"8\"/>\
                 <text class=\"n\" x=\"{at:.1}\" y=\"{:.1}\">{number}</text>",
                format::moment(mark.x),
                y - 4.0,
                y - 0.5
            );
            if *labelled {
                let (anchor, x) = if at + width(mark) > WIDTH { ("e", at - 12.0) } else { ("", at + 12.0) };
                let _ = write!(out, "<text class=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>");
            }
            out.push_str("</g>");
        }
    }
}
