//! The results as a drawing.

use std::fmt::Write;

use super::Report;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 400.0;
/// Edges of the area that bars are drawn in.
const TOP: f64 = 112.0;
const BOTTOM: f64 = 330.0;
const PANEL_WIDTH: f64 = 350.0;

/// Greys and colours that can be read on white and on black.
const GREY: &str = "#767676";
const BAR: &str = "#3d86d8";
const LIMIT: &str = "#d9731a";

/// Bars with a title.
struct Panel {
    left: f64,
    title: &'static str,
    axis: &'static str,
    bars: Vec<Bar>,
    /// What the limit is, where there is one.
    limit: Option<String>,
}

struct Bar {
    label: String,
    value: f64,
    /// What the machine would allow.
    limit: Option<f64>,
}

/// Prompt speed by length against what the peak of products allows, and decoding speed by depth against what the read
/// bandwidth allows.
pub(crate) fn svg(report: &Report) -> String {
    let mut out = String::new();
    let font = "font-family=\"system-ui, sans-serif\" font-size=\"13\"";
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" {font}>"
    );
    text(&mut out, (60.0, 32.0), "start", 18, &format!("{}, {}", report.model, report.dtype));
    let features = report.features.join(", ");
    text(&mut out, (60.0, 54.0), "start", 13, &format!("{}: {}, {features}", report.backend, report.machine));
    for panel in panels(report) {
        panel.draw(&mut out);
    }
    out + "</svg>\n"
}

fn panels(report: &Report) -> [Panel; 2] {
    let prompt = |p: &super::Prompt| Bar {
        label: p.tokens.to_string(),
        value: p.tokens_per_second,
        limit: report.product_peak.map(|peak| peak / p.flops_per_token),
    };
    let decode = |d: &super::Decode| Bar {
        label: d.depth.to_string(),
        value: d.tokens_per_second,
        limit: report.read_bandwidth.map(|bandwidth| bandwidth / d.bytes_per_token.max(1) as f64),
    };
    [
        Panel {
            left: 60.0,
            title: "Prompt, tokens per second",
            axis: "prompt length in tokens",
            bars: report.prompt.iter().map(prompt).collect(),
            limit: report.product_peak.map(|peak| {
                let (whose, peak) = (report.peak_of, number(peak / 1e12));
                format!("limit: peak of {whose} {peak} TFLOP/s / operations per token")
            }),
        },
        Panel {
            left: 490.0,
            title: "Decoding, tokens per second",
            axis: "tokens in the KV cache",
            bars: report.decode.iter().map(decode).collect(),
            limit: report.read_bandwidth.map(|bandwidth| {
                format!("limit: read bandwidth {} GB/s / bytes per token", number(bandwidth / 1e9))
            }),
        },
    ]
}

impl Panel {
    fn draw(&self, out: &mut String) {
        let right = self.left + PANEL_WIDTH;
        let middle = f64::midpoint(self.left, right);
        text(out, (self.left, TOP - 26.0), "start", 14, self.title);
        let largest = self.bars.iter().flat_map(|b| [b.value, b.limit.unwrap_or(0.0)]).fold(0.0, f64::max);
        if largest <= 0.0 {
            return text(out, (middle, f64::midpoint(TOP, BOTTOM)), "middle", 13, "not measured");
        }
        let step = nice(largest / 4.0);
        let ticks = (largest / step).ceil();
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let y = |value: f64| BOTTOM - value / (step * ticks) * (BOTTOM - TOP);
        for tick in 0..=ticks as u32 {
            let value = f64::from(tick) * step;
            line(out, (self.left, y(value)), (right, y(value)), GREY, if tick == 0 { 1.0 } else { 0.25 });
            text(out, (self.left - 8.0, y(value) + 4.0), "end", 12, &format!("{value:.decimals$}"));
        }
        let slot = PANEL_WIDTH / self.bars.len() as f64;
        let width = (slot * 0.5).min(64.0);
        for (i, bar) in self.bars.iter().enumerate() {
            let x = self.left + slot * (i as f64 + 0.5);
            let top = y(bar.value);
            let (left, height) = (x - width / 2.0, BOTTOM - top);
            let _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{BAR}\"/>"
            );
            let mut above = top;
            if let Some(limit) = bar.limit {
                line(out, (left - 8.0, y(limit)), (left + width + 8.0, y(limit)), LIMIT, 3.0);
                // The value keeps clear of the limit's line.
                above = if (top - 18.0..top + 4.0).contains(&y(limit)) { y(limit) - 2.0 } else { top };
            }
            text(out, (x, above - 5.0), "middle", 13, &number(bar.value));
            text(out, (x, BOTTOM + 18.0), "middle", 12, &bar.label);
        }
        text(out, (middle, BOTTOM + 38.0), "middle", 12, self.axis);
        if let Some(limit) = &self.limit {
            line(out, (self.left, HEIGHT - 17.0), (self.left + 24.0, HEIGHT - 17.0), LIMIT, 3.0);
            text(out, (self.left + 30.0, HEIGHT - 12.0), "start", 12, limit);
        }
    }
}

/// The least of 1, 2, 5, 10, 20, … (and of their fractions by powers of ten) that is no smaller.
fn nice(value: f64) -> f64 {
    let power = 10.0_f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= value * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// Three digits or more.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
    );
}

fn text(out: &mut String, at: (f64, f64), anchor: &str, size: u32, text: &str) {
    let (x, y) = at;
    let text = escaped(text);
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{GREY}\">{text}</text>"
    );
}

/// Text as XML takes it.
fn escaped(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().map(plain).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::report::{Decode, PerStep, Prompt};
    use super::*;

    #[test]
    fn steps_are_round_and_large_enough() {
        for (value, expected) in
            [(1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (51.0, 100.0), (0.07, 0.1), (500.0, 500.0)]
        {
            assert!((nice(value) - expected).abs() < 1e-9 * expected, "{value}: {}", nice(value));
        }
    }

    #[test]
    fn both_panels_show_their_limit() {
        let prompt = vec![Prompt::new(512, 512e9, vec![1.0], Vec::new())];
        let decode = vec![Decode::new(0, 1_000_000_000, vec![0.1], PerStep::default())];
        let mut report = Report { prompt, decode, ..Report::default() };
        let limits = |report: &Report| svg(report).matches(LIMIT).count();
        assert_eq!(limits(&report), 0);
        // 1000 and 20 tokens per second, beside 512 and 10.
        report.compare_with(Some(20e9), Some(1e12), false);
        let [prompts, decodes] = panels(&report);
        assert_eq!((prompts.bars[0].limit, decodes.bars[0].limit), (Some(1000.0), Some(20.0)));
        // A line in each panel, and one beside each legend.
        assert_eq!(limits(&report), 4);
        let drawing = svg(&report);
        assert!(drawing.contains("20.0 GB/s / bytes"), "{drawing}");
        assert!(drawing.contains("peak of own kernels 1.00 TFLOP/s / operations"), "{drawing}");
        report.decode.clear();
        assert_eq!(limits(&report), 2);
    }

    #[test]
    fn names_cannot_break_the_drawing() {
        assert_eq!(escaped("a<b>&\u{1}c"), "a&lt;b&gt;&amp; c");
    }
}
