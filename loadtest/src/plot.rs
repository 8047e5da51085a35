//! A picture of a run: latencies by percentile, throughput and memory over time.
//!
//! **Invariants.** Well-formed SVG without scripts, fonts or references; readable on light and dark backgrounds.

use std::fmt::Write;

use hdrhistogram::Histogram;

use crate::{goal::shown, run::RunResult};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 24.0;
const PANEL: f64 = 210.0;
const GAP: f64 = 78.0;
const COLOURS: [&str; 8] = ["#2f7ed8", "#d9822b", "#3a9d5d", "#b5489c", "#8a7a2f", "#5b6ee1", "#c94f4f", "#2a9d9d"];
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#333}.t{font-size:15px;font-weight:600}.q{fill:#777}\
    .bg{fill:#fff}.g{stroke:#ccc;stroke-width:.6;fill:none}.a{stroke:#888;fill:none}.l{fill:none;stroke-width:1.8;stroke-linejoin:round}\
    @media(prefers-color-scheme:dark){text{fill:#ddd}.q{fill:#999}.bg{fill:#16191d}.g{stroke:#3a3f46}.a{stroke:#777}}";

/// A line of a panel.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

struct Panel<'p> {
    title: &'p str,
    lines: Vec<Line>,
    /// Marks of the lower axis: place (0 to 1) and text.
    marks: Vec<(f64, String)>,
    is_logarithmic: bool,
}

/// Draws a run.
pub fn draw(title: &str, run: &RunResult) -> String {
    let panels = [latencies(&run.curves), throughput(run), memory(run)];
    let panels: Vec<Panel<'_>> = panels.into_iter().filter(|panel| !panel.lines.is_empty()).collect();
    let legends: Vec<f64> = panels.iter().map(|panel| (panel.lines.len().div_ceil(3) as f64) * 18.0).collect();
    let height = 48.0 + panels.len() as f64 * (PANEL + GAP) + legends.iter().sum::<f64>();
    let mut svg = String::new();
    // Writing to a string does not fail.
    write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\">\
         <style>{STYLE}</style><rect class=\"bg\" width=\"100%\" height=\"100%\" rx=\"6\"/>\
         <text class=\"t\" x=\"{LEFT}\" y=\"30\">{}</text>",
        escaped(title)
    )
    .ok();
    let mut top = 74.0;
    for (panel, legend) in panels.iter().zip(legends) {
        panel.draw(top, &mut svg).ok();
        top += PANEL + GAP + legend;
    }
    svg.push_str("</svg>\n");
    svg
}

/// The scale is that of nines: each step to the right is ten times rarer.
fn latencies(curves: &[(String, Histogram<u64>)]) -> Panel<'static> {
    const NINES: f64 = 4.0;
    let place = |quantile: f64| (-(1.0 - quantile).log10() / NINES).min(1.0);
    let lines = curves
        .iter()
        .filter(|(_, histogram)| !histogram.is_empty())
        .map(|(name, histogram)| {
            let points = (0..=120).map(|step| {
                let at = f64::from(step) / 120.0;
                let quantile = 1.0 - 10_f64.powf(-at * NINES);
                (at, (histogram.value_at_quantile(quantile) as f64 / 1000.0).max(0.01))
            });
            Line { name: name.clone(), points: points.collect() }
        })
        .collect();
    let marks = [("50 %", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("99.9 %", 0.999), ("99.99 %", 0.9999)];
    let marks = marks.iter().map(|(text, quantile)| (place(*quantile), (*text).to_owned())).collect();
    Panel { title: "latency by percentile, milliseconds", lines, marks, is_logarithmic: true }
}

fn seconds_of(run: &RunResult) -> f64 {
    run.samples.last().map_or(1.0, |sample| sample.at_s).max(1.0)
}

/// The beginnings of phases, those too near the one before left out.
fn phase_marks(run: &RunResult) -> Vec<(f64, String)> {
    let whole = seconds_of(run);
    let mut marks: Vec<(f64, String)> = Vec::new();
    for (at, name) in &run.phases {
        let place = at / whole;
        let reach = name.len() as f64 * 7.0 / (WIDTH - LEFT - RIGHT);
        if marks.last().is_none_or(|(before, text)| place - before > text.len() as f64 * 7.5 / (WIDTH - LEFT - RIGHT))
            && place + reach < 1.05
        {
            marks.push((place, name.clone()));
        }
    }
    marks
}

fn over_time(run: &RunResult, name: &str, of: impl Fn(&crate::sampler::Sample) -> f64) -> Option<Line> {
    let whole = seconds_of(run);
    let points: Vec<(f64, f64)> = run.samples.iter().map(|sample| (sample.at_s / whole, of(sample))).collect();
    points.iter().any(|(_, value)| *value > 0.0).then(|| Line { name: name.to_owned(), points })
}

fn throughput(run: &RunResult) -> Panel<'static> {
    let acked = over_time(run, "acknowledged", |sample| sample.acked);
    let delivered = over_time(run, "delivered", |sample| sample.delivered);
    let lines = acked.into_iter().chain(delivered).collect();
    Panel { title: "events per second", lines, marks: phase_marks(run), is_logarithmic: false }
}

fn memory(run: &RunResult) -> Panel<'static> {
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    let gateway = over_time(run, "gateway", |sample| mib(sample.memory.gateway));
    let postgres = over_time(run, "PostgreSQL", |sample| mib(sample.memory.postgres));
    let lines = gateway.into_iter().chain(postgres).collect();
    Panel { title: "memory, MiB", lines, marks: phase_marks(run), is_logarithmic: false }
}

impl Panel<'_> {
    fn draw(&self, top: f64, svg: &mut String) -> std::fmt::Result {
        let (inner, bottom) = (WIDTH - LEFT - RIGHT, top + PANEL);
        let values = || self.lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value));
        let (least, most) = if self.is_logarithmic {
            let least = values().fold(f64::MAX, f64::min).log10().floor();
            (least, values().fold(0.0, f64::max).log10().ceil().max(least + 1.0))
        } else {
            (0.0, nice(values().fold(0.0, f64::max)))
        };
        let x = |place: f64| LEFT + place.clamp(0.0, 1.0) * inner;
        let y = |value: f64| {
            let value = if self.is_logarithmic { value.log10() } else { value };
            bottom - (value - least) / (most - least) * PANEL
        };
        write!(svg, "<text x=\"{LEFT}\" y=\"{:.0}\">{}</text>", top - 10.0, self.title)?;
        let levels: Vec<f64> = if self.is_logarithmic {
            (least as i32..=most as i32).map(|power| 10_f64.powi(power)).collect()
        } else {
            (0..=4).map(|step| most * f64::from(step) / 4.0).collect()
        };
        for level in levels {
            let at = y(level);
            write!(
                svg,
                "<path class=\"g\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text class=\"q\" text-anchor=\"end\" x=\"{:.0}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0,
                shown(level)
            )?;
        }
        for (place, text) in &self.marks {
            let at = x(*place);
            write!(
                svg,
                "<path class=\"g\" d=\"M{at:.1} {top:.1}V{bottom:.1}\"/><text class=\"q\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 16.0,
                escaped(text)
            )?;
        }
        write!(svg, "<path class=\"a\" d=\"M{LEFT} {top:.1}V{bottom:.1}H{:.1}\"/>", WIDTH - RIGHT)?;
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let mut path = String::new();
            for (at, (place, value)) in line.points.iter().enumerate() {
                write!(path, "{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, x(*place), y(*value))?;
            }
            write!(svg, "<path class=\"l\" stroke=\"{colour}\" d=\"{path}\"/>")?;
            let (left, lower) = (LEFT + (number % 3) as f64 * inner / 3.0, bottom + 38.0 + (number / 3) as f64 * 18.0);
            write!(
                svg,
                "<path class=\"l\" stroke=\"{colour}\" d=\"M{left:.1} {:.1}h18\"/><text x=\"{:.1}\" y=\"{lower:.1}\">{}</text>",
                lower - 4.0,
                left + 24.0,
                escaped(&line.name)
            )?;
        }
        Ok(())
    }
}

/// The next round number.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0];
    steps.iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(power * 10.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{goal::Figures, ledger::empty_histogram, meter::Memory, sampler::Sample};

    fn run(samples: usize) -> RunResult {
        let mut histogram = empty_histogram().expect("a histogram");
        (1..=10_000).for_each(|us| histogram.saturating_record(us));
        RunResult {
            figures: Figures::new(),
            curves: vec![("a <b> & \"c\"".into(), histogram), ("empty".into(), empty_histogram().expect("one"))],
            samples: (0..samples)
                .map(|at| Sample {
                    at_s: at as f64,
                    acked: 9000.0 + at as f64,
                    delivered: 0.0,
                    memory: Memory { gateway: 50 << 20, postgres: 0 },
                })
                .collect(),
            phases: vec![(0.0, "first".into()), (0.1, "too near".into()), (30.0, "second".into())],
            faults: Vec::new(),
        }
    }

    /// Every element is closed in order, every attribute quoted, nothing is left bare.
    fn assert_well_formed(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg.trim();
        while let Some((text, tag)) = rest.split_once('<') {
            assert!(!text.contains('>'), "a bare > in {text:?}");
            let (tag, after) = tag.split_once('>').expect("a tag ends");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            let name = tag.split([' ', '/']).find(|name| !name.is_empty()).expect("a name");
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            for entity in text.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "{entity}");
            }
            rest = after;
        }
        assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "numbers");
    }

    #[test]
    fn a_picture_is_well_formed_whatever_was_seen() {
        for samples in [0, 1, 60] {
            let svg = draw("steady & <co>, \"SQLite\"", &run(samples));
            assert_well_formed(&svg);
            assert!(svg.contains("a &lt;b&gt; &amp; &quot;c&quot;") && !svg.contains(">empty<"));
        }
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, expected) in [(0.9, 1.0), (1.0, 1.0), (13_300.0, 16_000.0), (61.0, 80.0)] {
            assert!((nice(value) - expected).abs() < 1e-6, "{value}: {}", nice(value));
        }
    }
}
