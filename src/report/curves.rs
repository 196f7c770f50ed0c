//! ROC and precision–recall curves from labels and scores.

/// Corners of both curves, from the highest score to the lowest; ties are one corner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// False positive rate, true positive rate; from (0, 0) to (1, 1). Empty when a class is missing.
    pub roc: Vec<(f64, f64)>,
    /// Recall, precision; begins at recall 0 with the precision of the highest score. Empty without positives.
    pub precision_recall: Vec<(f64, f64)>,
    /// Share of positives.
    pub base_rate: Option<f64>,
}

/// Corners closer than this in both directions are drawn as one.
const FINE: f64 = 0.0015;

/// The curves of `(label, score)` pairs.
pub fn curves(mut pairs: Vec<(u8, f32)>) -> Curves {
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
    let positives = pairs.iter().filter(|p| p.0 == 1).count() as f64;
    let negatives = pairs.len() as f64 - positives;
    let (mut tp, mut fp) = (0.0, 0.0);
    let (mut roc, mut precision_recall) = (vec![(0.0, 0.0)], Vec::new());
    for (i, &(label, score)) in pairs.iter().enumerate() {
        tp += f64::from(label);
        fp += 1.0 - f64::from(label);
        if pairs.get(i + 1).is_some_and(|next| next.1 == score) {
            continue;
        }
        roc.push((fp / negatives, tp / positives));
        let precision = tp / (tp + fp);
        if precision_recall.is_empty() {
            precision_recall.push((0.0, precision));
        }
        precision_recall.push((tp / positives, precision));
    }
    Curves {
        roc: if positives > 0.0 && negatives > 0.0 { thinned(roc) } else { Vec::new() },
        precision_recall: if positives > 0.0 { thinned(precision_recall) } else { Vec::new() },
        base_rate: (!pairs.is_empty()).then(|| positives / pairs.len() as f64),
    }
}

/// Leaves out points that a reader could not tell from the one before; the last one stays.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let last = points.last().copied();
    for point in points {
        if kept.last().is_none_or(|k| (k.0 - point.0).abs() > FINE || (k.1 - point.1).abs() > FINE) {
            kept.push(point);
        }
    }
    if let (Some(end), Some(kept_end)) = (last, kept.last())
        && end != *kept_end
    {
        kept.push(end);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Ranking;
    use crate::rng::Stream;

    #[test]
    fn corners_are_those_counted_by_hand() {
        let found = curves(vec![(0, 0.1), (1, 0.9), (0, 0.5), (1, 0.5)]);
        assert_eq!(found.roc, [(0.0, 0.0), (0.0, 0.5), (0.5, 1.0), (1.0, 1.0)]);
        assert_eq!(found.precision_recall, [(0.0, 1.0), (0.5, 1.0), (1.0, 2.0 / 3.0), (1.0, 0.5)]);
        assert_eq!(found.base_rate, Some(0.5));
        assert!(curves(vec![(0, 0.1)]).roc.is_empty() && curves(vec![(0, 0.1)]).precision_recall.is_empty());
        assert_eq!(curves(vec![]), Curves::default());
        assert!(curves(vec![(1, 0.1)]).roc.is_empty());
    }

    /// The drawn ROC curve has the area that the metrics report, thinned as it is.
    #[test]
    fn the_area_below_is_the_reported_one() {
        let mut random = Stream::new(4, 1, 0);
        let pairs: Vec<(u8, f32)> = (0..5000)
            .map(|_| {
                let label = u8::from(random.below(5) == 0);
                // Rounded, so that there are ties.
                let score = (random.normal() + f64::from(label)).clamp(-4.0, 4.0) * 8.0;
                (label, (score.round() / 64.0 + 0.5) as f32)
            })
            .collect();
        let found = curves(pairs.clone());
        let area: f64 = found.roc.windows(2).map(|w| (w[1].0 - w[0].0) * (w[1].1 + w[0].1) / 2.0).sum();
        let (labels, scores): (Vec<u8>, Vec<f64>) = pairs.iter().map(|&(l, s)| (l, f64::from(s))).unzip();
        let scores = Ranking::ungrouped(&labels, &scores, 0.5).scores();
        assert!((area - scores.auroc.unwrap()).abs() < 1e-3, "{area} {:?}", scores.auroc);
        assert!((found.precision_recall.last().unwrap().1 - found.base_rate.unwrap()).abs() < 1e-12);
    }
}
