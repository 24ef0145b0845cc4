//! Pictures of figures: bars, one for each arm, and curves over a load. A median with its range. Plain SVG without a
//! script or a font of its own. Must never start an axis anywhere but at zero.

use std::fmt::Write;

use crate::statistics::Spread;

const LEFT: f64 = 220.0;
const WIDTH: f64 = 520.0;
const ROW: f64 = 30.0;
const TOP: f64 = 44.0;
/// Room for the number behind the longest bar.
const RIGHT: f64 = 150.0;

/// One bar: its label, and what was measured.
pub(crate) type Bar = (String, Spread);

/// Horizontal bars under a title.
pub(crate) fn bars(title: &str, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|(_, spread)| spread.max).fold(f64::EPSILON, f64::max);
    let x = |value: f64| LEFT + WIDTH * value / longest;
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + ROW * bars.len() as f64 + 10.0);
    let mut svg = opening(title, width, height);
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

/// One curve: its name, and a median with its range for each place on the x axis.
pub(crate) type Curve = (String, Vec<Spread>);

const COLORS: [&str; 4] = ["#1f6f4a", "#b4541a", "#2b5b9e", "#7a7a7a"];
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 70.0;

/// Curves over the same places, which stand at equal distances under their labels.
pub(crate) fn curves(title: &str, places: &[String], curves: &[Curve]) -> String {
    let all = curves.iter().flat_map(|(_, spreads)| spreads);
    let highest = all.map(|spread| spread.max).fold(f64::EPSILON, f64::max);
    let step = WIDTH / (places.len().max(2) - 1) as f64;
    let x = |place: usize| MARGIN + step * place as f64;
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / highest);
    let (width, height) = (MARGIN + WIDTH + RIGHT, TOP + HEIGHT + 40.0);
    let mut svg = opening(title, width, height);
    let base = TOP + HEIGHT;
    let _ = writeln!(
        svg,
        "<path d=\"M{MARGIN} {TOP}V{base}H{:.1}\" fill=\"none\" stroke=\"#222\"/>\
         <text x=\"{:.1}\" y=\"{TOP}\" text-anchor=\"end\">{highest:.1}</text>\
         <text x=\"{:.1}\" y=\"{base}\" text-anchor=\"end\">0</text>",
        MARGIN + WIDTH,
        MARGIN - 8.0,
        MARGIN - 8.0
    );
    for (place, label) in places.iter().enumerate() {
        let label = escape(label);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            x(place),
            base + 20.0
        );
    }
    for ((name, spreads), color) in curves.iter().zip(COLORS.iter().cycle()) {
        let points: Vec<String> = spreads
            .iter()
            .enumerate()
            .map(|(place, spread)| format!("{:.1},{:.1}", x(place), y(spread.median)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for (place, spread) in spreads.iter().enumerate() {
            let (x, low, high) = (x(place), y(spread.min), y(spread.max));
            let _ = writeln!(svg, "<path d=\"M{x:.1} {low:.1}V{high:.1}\" stroke=\"{color}\"/>");
        }
        if let Some(last) = spreads.last() {
            let (x, y) = (x(spreads.len() - 1) + 8.0, y(last.median) + 5.0);
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{color}\">{}</text>", escape(name));
        }
    }
    svg + "</svg>\n"
}

fn opening(title: &str, width: f64, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"14\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"16\">{}</text>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_through_its_medians_and_its_axis_starts_at_zero() {
        let spread = |median: f64, min: f64, max: f64| Spread { median, min, max, runs: 3 };
        let of = vec![spread(2.0, 1.0, 4.0), spread(10.0, 5.0, 20.0), spread(20.0, 20.0, 20.0)];
        let places = ["a".to_owned(), "<b>".to_owned(), "c".to_owned()];
        let svg = curves("t", &places, &[("p50".into(), of)]);
        assert!(svg.contains("points=\"70.0,278.0 330.0,174.0 590.0,44.0\""), "{svg}");
        assert!(svg.contains("M330.0 239.0V44.0"), "the range: {svg}");
        assert!(svg.contains("&lt;b&gt;") && svg.contains(">20.0<") && svg.contains(">p50<"), "{svg}");
    }

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
