//! A picture of one figure of all arms: a bar for the median, a line for the range. Plain SVG without a script or a font
//! of its own. Must never start an axis anywhere but at zero.

use std::fmt::Write;

use crate::statistics::Spread;

const LEFT: f64 = 220.0;
const WIDTH: f64 = 520.0;
const ROW: f64 = 30.0;
const TOP: f64 = 44.0;
/// Room for the number behind the longest bar.
const RIGHT: f64 = 150.0;

/// One bar: its label, and what was measured.
pub(super) type Bar = (String, Spread);

/// Horizontal bars under a title.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|(_, spread)| spread.max).fold(f64::EPSILON, f64::max);
    let x = |value: f64| LEFT + WIDTH * value / longest;
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + ROW * bars.len() as f64 + 10.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"14\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">{}</text>\n",
        escape(title)
    );
    for (i, (label, spread)) in bars.iter().enumerate() {
        let middle = TOP + ROW * (i as f64 + 0.5);
        let (top, base) = (middle - 9.0, middle + 5.0);
        let color = if label.starts_with("pillarbox") { "#1f6f4a" } else { "#9aa5b1" };
        let Spread { median, min, max, .. } = *spread;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"18\" fill=\"{color}\"/>\
             <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"#222\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
            LEFT - 8.0,
            escape(label),
            x(median) - LEFT,
            x(min),
            x(max),
            x(max) + 8.0,
            spread.text(1.0, 1),
        );
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_median_and_the_axis_starts_at_zero() {
        let spread = |median: f64, min: f64, max: f64| Spread { median, min, max, runs: 3 };
        let svg = bars(
            "a -> b",
            &[("one".into(), spread(50.0, 40.0, 100.0)), ("two".into(), spread(25.0, 25.0, 25.0))],
        );
        assert!(svg.contains("a -&gt; b"), "{svg}");
        for width in ["width=\"260.0\"", "width=\"130.0\"", "M428.0", "H740.0"] {
            assert!(svg.contains(width), "{width} in {svg}");
        }
        assert_eq!(svg.matches("<rect").count(), 3);
    }
}
