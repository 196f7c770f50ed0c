//! From values to pixels, and the round numbers beside an axis.

/// A linear map of `low..high` onto pixels `from..to`; either may run backwards.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
    pub from: f64,
    pub to: f64,
}

impl Scale {
    /// Where a value lies; values outside are drawn at the edge.
    pub fn at(&self, value: f64) -> f64 {
        let span = self.high - self.low;
        let share = if span != 0.0 { ((value - self.low) / span).clamp(0.0, 1.0) } else { 0.5 };
        self.from + share * (self.to - self.from)
    }
}

/// About `wanted` round numbers within `low..=high`, and the decimals that they need.
pub fn ticks(low: f64, high: f64, wanted: usize) -> (Vec<f64>, usize) {
    let span = high - low;
    if !(span > 0.0 && span.is_finite()) {
        return (vec![low], 2);
    }
    let rough = span / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough * 0.999).unwrap_or(10.0);
    let step = factor * power;
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    ((first..=last).map(|i| i as f64 * step).collect(), decimals)
}

/// `low..high` widened to round numbers, with room around data that do not vary.
pub fn rounded(values: impl Iterator<Item = f64>, wanted: usize) -> (f64, f64) {
    let (low, high) = values.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let (low, high) = if high - low > 1e-9 * high.abs().max(1e-9) {
        (low, high)
    } else {
        let room = if low == 0.0 { 1.0 } else { 0.5 * low.abs() };
        (low - room, high + room)
    };
    let (marks, _) = ticks(low, high, wanted);
    let step = if marks.len() > 1 { marks[1] - marks[0] } else { high - low };
    ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step)
}

/// A label of an axis: few digits, thousands apart, a true minus sign.
pub fn label(value: f64, decimals: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if value.abs() >= 10_000.0 && decimals == 0 {
        let sign = if value < 0.0 { "−" } else { "" };
        return format!("{sign}{}", super::format::thousands(value.abs().round() as u64));
    }
    super::format::decimals(value, decimals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 1.0, 5).0, [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks(-13.0, 7.0, 4).0, [-10.0, -5.0, 0.0, 5.0]);
        assert_eq!(ticks(0.0, 48_000.0, 4).0, [0.0, 20_000.0, 40_000.0]);
        let (marks, decimals) = ticks(0.642, 0.691, 5);
        assert_eq!((marks.len(), decimals), (5, 2), "{marks:?}");
        assert_eq!(ticks(3.0, 3.0, 5).0, [3.0]);
        assert_eq!(ticks(0.0, f64::INFINITY, 5).0, [0.0]);
    }

    #[test]
    fn ranges_hold_their_data() {
        assert_eq!(rounded([0.13, 0.87].into_iter(), 5), (0.0, 1.0));
        assert_eq!(rounded([-3.2, 11.0].into_iter(), 4), (-5.0, 15.0));
        let (low, high) = rounded([0.7, 0.7].into_iter(), 5);
        assert!(low < 0.7 && high > 0.7);
        assert_eq!(rounded([f64::NAN].into_iter(), 5), (0.0, 1.0));
        let (low, high) = rounded([0.0].into_iter(), 5);
        assert!(low < 0.0 && high > 0.0);
    }

    #[test]
    fn scales_run_both_ways_and_stop_at_the_edge() {
        let y = Scale { low: 0.0, high: 2.0, from: 300.0, to: 100.0 };
        assert_eq!([y.at(0.0), y.at(1.0), y.at(2.0), y.at(9.0)], [300.0, 200.0, 100.0, 100.0]);
        assert_eq!(Scale { low: 1.0, high: 1.0, from: 0.0, to: 10.0 }.at(1.0), 5.0);
        assert_eq!(Scale { low: 4.0, high: 0.0, from: 100.0, to: 20.0 }.at(1.0), 40.0);
        assert_eq!(label(0.0, 2), "0");
        assert_eq!([label(0.5, 1), label(-20_000.0, 0), label(400.0, 0)], [".5", "−20,000", "400"]);
    }
}
