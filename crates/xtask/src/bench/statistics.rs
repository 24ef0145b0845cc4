//! The few figures a series of runs is told with. Must never hide the spread: a median comes with its range.

use serde::Serialize;

/// Median, smallest and largest of a series.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) runs: usize,
}

impl Spread {
    /// `None` for an empty series.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Spread { median, min, max, runs: values.len() })
    }

    /// `median (min-max)`, each in the given unit with so many decimals.
    pub(crate) fn text(self, unit: f64, decimals: usize) -> String {
        let show = |value: f64| format!("{:.decimals$}", value / unit);
        format!("{} ({}-{})", show(self.median), show(self.min), show(self.max))
    }
}

/// A cell of a table: the spread, or a dash where nothing was measured.
pub(crate) fn cell(values: impl IntoIterator<Item = Option<f64>>, unit: f64, decimals: usize) -> String {
    Spread::of(values.into_iter().flatten()).map_or("-".into(), |spread| spread.text(unit, decimals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_range() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0, runs: 3 }));
        assert_eq!(Spread::of([4.0, 1.0]).map(|s| s.median), Some(2.5));
        assert_eq!(cell([Some(1500.0), None, Some(2500.0)], 1000.0, 1), "2.0 (1.5-2.5)");
        assert_eq!(cell([None], 1.0, 1), "-");
    }
}
