//! The figures as a picture: for each workload one bar for each target, as its share of the plain loop device. SVG as
//! text, so that it needs nothing but a browser.

use std::fmt::Write;

use super::results::Results;

/// Colours that differ also for who sees few of them.
const COLOURS: [&str; 6] = ["#9e9e9e", "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00"];
const BAR: u32 = 12;
const GAP: u32 = 14;
const LEFT: u32 = 260;
const WIDTH: u32 = 620;
/// The longest bar: twice the plain loop device; what is longer is cut and says so.
const MOST: f64 = 2.0;

/// Bars of the ratios to the first target.
pub fn ratios(results: &Results) -> String {
    let workloads = results.workloads();
    let compared: Vec<&String> = results.targets.iter().skip(1).collect();
    let group = u32::try_from(compared.len()).unwrap_or(1) * BAR + GAP;
    let top = 30 + 18 * u32::try_from(compared.len()).unwrap_or(1);
    let height = top + group * u32::try_from(workloads.len()).unwrap_or(1) + 30;
    let scale = |ratio: f64| ratio.clamp(0.0, MOST) / MOST * f64::from(WIDTH);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        LEFT + WIDTH + 60
    );
    // Writing to a String does not fail.
    for (index, target) in compared.iter().enumerate() {
        let y = 10 + 18 * u32::try_from(index).unwrap_or(0);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            colour(index + 1),
            LEFT + 18,
            y + 10,
            escaped(target)
        );
    }
    for tenths in [0.5, 1.0, 1.5, 2.0] {
        let x = f64::from(LEFT) + scale(tenths);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"{}\" y2=\"{}\" stroke=\"{}\"/><text x=\"{x:.0}\" y=\"{}\" text-anchor=\"middle\">{tenths}</text>",
            top - 4,
            height - 24,
            if (tenths - 1.0_f64).abs() < f64::EPSILON {
                "#404040"
            } else {
                "#dddddd"
            },
            height - 10
        );
    }
    for (number, workload) in workloads.iter().enumerate() {
        let y = top + group * u32::try_from(number).unwrap_or(0);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            LEFT - 8,
            y + (group - GAP) / 2 + 4,
            escaped(workload)
        );
        for (index, target) in compared.iter().enumerate() {
            let Some(row) = results.row(workload, target).filter(|row| row.ratio.is_finite()) else {
                continue;
            };
            let y = y + BAR * u32::try_from(index).unwrap_or(0);
            let length = scale(row.ratio);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/><text x=\"{:.0}\" y=\"{}\">{:.2}</text>",
                BAR - 1,
                colour(index + 1),
                f64::from(LEFT) + length + 4.0,
                y + 10,
                row.ratio
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
