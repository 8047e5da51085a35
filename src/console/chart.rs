//! Charts of bars, one column for each stretch of time: plain SVG with classes, readable without a script, and as a table.

use askama::{Template, filters::HtmlSafe};

use super::ui;
use crate::model::clock::EpochMs;

/// How wide and high the drawing is, in its own units; the page stretches it.
const WIDTH: u64 = 960;
const HEIGHT: u64 = 100;

/// One kind of thing that is counted.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    /// What it is called.
    pub label: &'static str,
    /// Its colour: `good`, `warn`, `bad`, `plain` or `accent`.
    pub tone: &'static str,
}

/// A column as it is counted: when it begins, and how much of each series.
pub type Column<const N: usize> = (EpochMs, [u64; N]);

/// A chart.
#[derive(Debug, Clone, Template)]
#[template(path = "chart.html")]
pub struct Chart {
    id: &'static str,
    title: &'static str,
    series: Vec<Series>,
    totals: Vec<u64>,
    columns: Vec<Drawn>,
    scale: u64,
    marks: Vec<EpochMs>,
}

impl HtmlSafe for Chart {}

/// A column as it is drawn.
#[derive(Debug, Clone)]
struct Drawn {
    at: EpochMs,
    values: Vec<u64>,
    bars: Vec<Bar>,
}

/// A piece of a column.
#[derive(Debug, Clone)]
struct Bar {
    tone: &'static str,
    x: String,
    y: String,
    width: String,
    height: String,
}

impl Chart {
    /// A chart of these columns, oldest first. `id` is its own on the page.
    pub fn new<const N: usize>(
        id: &'static str,
        title: &'static str,
        series: [Series; N],
        columns: &[Column<N>],
    ) -> Self {
        let highest = columns.iter().map(|(_, values)| values.iter().sum()).max().unwrap_or(0);
        let scale = round_up(highest);
        let step = milli(WIDTH) / u64::try_from(columns.len().max(1)).unwrap_or(1);
        let drawn = (0..).zip(columns).map(|(place, (at, values))| {
            let mut top = milli(HEIGHT);
            let pieces = series.iter().zip(values).filter(|(_, value)| **value > 0);
            let bars = pieces.map(|(series, value)| {
                let height = milli(HEIGHT) * value / scale;
                top = top.saturating_sub(height);
                Bar {
                    tone: series.tone,
                    x: decimal(place * step + step / 10),
                    y: decimal(top),
                    width: decimal(step * 8 / 10),
                    height: decimal(height),
                }
            });
            Drawn { at: *at, values: values.to_vec(), bars: bars.collect() }
        });
        let marks = [columns.first(), columns.get(columns.len() / 2), columns.last()];
        Self {
            id,
            title,
            totals: (0..N).map(|place| columns.iter().map(|(_, values)| values[place]).sum()).collect(),
            series: series.to_vec(),
            columns: drawn.collect(),
            scale,
            marks: marks.into_iter().flatten().map(|(at, _)| *at).collect(),
        }
    }

    /// The chart in a sentence, for who does not see it.
    fn told(&self) -> String {
        let parts: Vec<String> =
            self.series.iter().zip(&self.totals).map(|(series, total)| format!("{total} {}", series.label)).collect();
        format!("{}: {}", self.title, parts.join(", "))
    }

    /// What is said of a column when it is pointed at.
    fn told_of(&self, column: &Drawn) -> String {
        let parts: Vec<String> = (self.series.iter().zip(&column.values))
            .filter(|(_, value)| **value > 0)
            .map(|(series, value)| format!("{value} {}", series.label))
            .collect();
        format!("{}: {}", hour(column.at), parts.join(", "))
    }
}

/// `22:15 UTC`.
fn hour(at: EpochMs) -> String {
    let text = at.to_rfc3339();
    text.get(11..16).map_or(text.clone(), |hour| format!("{hour} UTC"))
}

fn milli(units: u64) -> u64 {
    units * 1000
}

/// Thousandths as a decimal number.
fn decimal(thousandths: u64) -> String {
    format!("{}.{:02}", thousandths / 1000, thousandths % 1000 / 10)
}

/// The next number that people like at the top of a scale.
fn round_up(highest: u64) -> u64 {
    let mut power = 1_u64;
    loop {
        for digit in [1, 2, 4, 5, 8] {
            let candidate = power.saturating_mul(digit);
            if candidate >= highest {
                return candidate;
            }
        }
        power = power.saturating_mul(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: [Series; 2] = [Series { label: "good", tone: "good" }, Series { label: "bad", tone: "bad" }];

    #[test]
    fn columns_stand_on_the_ground_and_pieces_on_each_other() {
        let chart = Chart::new("c", "Test", SERIES, &[(EpochMs(0), [3, 1]), (EpochMs(60_000), [0, 0])]);
        let [lower, upper] = &chart.columns[0].bars[..] else { panic!("two pieces: {chart:?}") };
        assert_eq!((lower.y.as_str(), lower.height.as_str()), ("25.00", "75.00"));
        assert_eq!((upper.y.as_str(), upper.height.as_str(), upper.tone), ("0.00", "25.00", "bad"));
        assert!(chart.columns[1].bars.is_empty());
        assert_eq!(chart.told(), "Test: 3 good, 1 bad");
        let html = chart.to_string();
        assert!(html.contains("00:00 UTC: 3 good, 1 bad") && !html.contains("style="), "{html}");
    }

    #[test]
    fn scales_end_on_round_numbers_and_nothing_is_divided_by_zero() {
        for (highest, top) in [(0, 1), (1, 1), (3, 4), (6, 8), (9, 10), (11, 20), (401, 500), (999, 1000)] {
            assert_eq!(round_up(highest), top, "{highest}");
        }
        assert_eq!(round_up(u64::MAX), u64::MAX);
        let empty = Chart::new("c", "Test", SERIES, &[]);
        assert!(empty.marks.is_empty() && empty.to_string().contains("0 good"));
    }
}
