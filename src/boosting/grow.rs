//! Growing one regression tree, as scikit-learn's depth-first builder with its best splitter does.
//!
//! A split maximises Friedman's improvement `(n_r·Σ_l − n_l·Σ_r)² / (n_l·n_r)`, which orders the splits of one node as the
//! squared error does, between two values of a feature, at their middle. Features are drawn without replacement until
//! enough were seen and one of them was not constant; the first of equal candidates wins.

use super::columns::{Columns, SAME};
use super::tree::{Node, Tree};
use crate::rng::Stream;

/// Impurity of a pure node.
const PURE: f64 = f64::EPSILON;
/// A feature with more than this many distinct values per row of a node is sorted instead of counted.
const SORT_BEYOND: usize = 12;

/// Rows of one value of a feature.
#[derive(Clone, Copy, Default)]
struct Bin {
    sum: f64,
    rows: u32,
}

/// Where a node divides.
#[derive(Clone, Copy)]
struct Candidate {
    feature: usize,
    /// Highest rank that goes left.
    rank: u32,
    threshold: f64,
    improvement: f64,
}

/// What a feature offers a node.
enum Offer {
    Constant,
    /// The best split, if two values are far enough apart.
    Split(Option<Candidate>),
}

/// A node that waits for its turn.
struct Pending {
    start: usize,
    end: usize,
    depth: usize,
    /// The split that it is the right child of.
    right_of: Option<usize>,
    /// Features that an ancestor found constant.
    constant: Vec<bool>,
}

/// A tree and the rows of its leaves.
pub(super) struct Grown {
    pub tree: Tree,
    /// Leaves: node, and range of [`Grower::order`].
    pub leaves: Vec<(usize, std::ops::Range<usize>)>,
}

/// Grows trees over the same rows, reusing its memory.
pub(super) struct Grower<'a> {
    columns: &'a Columns,
    rows: &'a [u32],
    depth: usize,
    tried: usize,
    /// The rows, those of a node side by side, each with its target.
    order: Vec<(u32, f64)>,
    right: Vec<(u32, f64)>,
    /// All empty between uses.
    bins: Vec<Bin>,
    /// Rank, row and target.
    sorted: Vec<(u32, u32, f64)>,
    drawn: Vec<usize>,
    /// Reduction of squared error by each feature's splits, over all trees so far, as a share of the rows.
    pub importances: Vec<f64>,
}

impl<'a> Grower<'a> {
    /// For trees over `rows` of `columns`.
    pub fn new(columns: &'a Columns, rows: &'a [u32], depth: usize, tried: usize) -> Self {
        let widest = (0..columns.features()).map(|f| columns.values(f).len()).max().unwrap_or(0);
        Grower {
            columns,
            rows,
            depth,
            tried,
            order: vec![(0, 0.0); rows.len()],
            right: Vec::with_capacity(rows.len()),
            bins: vec![Bin::default(); widest],
            sorted: Vec::new(),
            drawn: (0..columns.features()).collect(),
            importances: vec![0.0; columns.features()],
        }
    }
    /// The rows of a leaf, each with its target.
    pub fn order(&self, range: &std::ops::Range<usize>) -> &[(u32, f64)] {
        &self.order[range.clone()]
    }

    /// A tree for `targets` (one per row of the table); its leaves hold 0.
    pub fn grow(&mut self, targets: &[f64], random: &mut Stream) -> Grown {
        self.order.iter_mut().zip(self.rows).for_each(|(o, &row)| *o = (row, targets[row as usize]));
        let (mut nodes, mut leaves): (Vec<Node>, Vec<_>) = (Vec::new(), Vec::new());
        let constant = vec![false; self.columns.features()];
        let mut pending = vec![Pending { start: 0, end: self.order.len(), depth: 0, right_of: None, constant }];
        while let Some(Pending { start, end, depth, right_of, mut constant }) = pending.pop() {
            let at = nodes.len();
            if let Some(parent) = right_of {
                nodes[parent].right = (at - parent) as u16;
            }
            let n = (end - start) as f64;
            let add = |(sum, squares), &(_, y): &(u32, f64)| (sum + y, squares + y * y);
            let (sum, squares) = self.order[start..end].iter().fold((0.0, 0.0), add);
            let impurity = squares / n - (sum / n) * (sum / n);
            let leaf = depth >= self.depth || end - start < 2 || impurity <= PURE;
            let best = if leaf { None } else { self.best(start..end, sum, &mut constant, random) };
            let Some(best) = best else {
                nodes.push(Node::leaf(0.0));
                leaves.push((at, start..end));
                continue;
            };
            nodes.push(Node { feature: best.feature as u16, right: 0, value: best.threshold });
            // (n_r·Σ_l − n_l·Σ_r)² / (n_l·n_r) is n times the reduction of the node's sum of squares.
            self.importances[best.feature] += best.improvement / n / self.rows.len() as f64;
            let middle = start + self.partition(start..end, &best);
            let depth = depth + 1;
            pending.push(Pending { start: middle, end, depth, right_of: Some(at), constant: constant.clone() });
            pending.push(Pending { start, end: middle, depth, right_of: None, constant });
        }
        Grown { tree: Tree { nodes }, leaves }
    }

    /// The best split among features drawn at random; `None` when nothing divides the node.
    fn best(
        &mut self,
        node: std::ops::Range<usize>,
        sum: f64,
        constant: &mut [bool],
        random: &mut Stream,
    ) -> Option<Candidate> {
        let features = self.drawn.len();
        let (mut best, mut divides): (Option<Candidate>, bool) = (None, false);
        for seen in 0..features {
            if seen >= self.tried && divides {
                break;
            }
            // With every feature tried their order only breaks ties.
            if self.tried < features {
                let other = seen + random.below((features - seen) as u32) as usize;
                self.drawn.swap(seen, other);
            }
            let feature = self.drawn[seen];
            if constant[feature] {
                continue;
            }
            match self.offer(feature, node.clone(), sum) {
                Offer::Constant => constant[feature] = true,
                Offer::Split(candidate) => {
                    divides = true;
                    if let Some(candidate) = candidate
                        && best.is_none_or(|b| candidate.improvement > b.improvement)
                    {
                        best = Some(candidate);
                    }
                }
            }
        }
        best
    }

    /// The best split by one feature. Values are summed up by rank: in a histogram, or in sorted pairs where the
    /// histogram would be mostly empty.
    fn offer(&mut self, feature: usize, node: std::ops::Range<usize>, sum: f64) -> Offer {
        let (ranks, values) = (self.columns.ranks(feature), self.columns.values(feature));
        let rows = &self.order[node];
        let whole = Bin { sum, rows: rows.len() as u32 };
        if values.len() > SORT_BEYOND * rows.len() {
            self.sorted.clear();
            self.sorted.extend(rows.iter().map(|&(row, y)| (ranks[row as usize], row, y)));
            self.sorted.sort_unstable_by_key(|&(rank, row, _)| (rank, row));
            let groups = self
                .sorted
                .chunk_by(|a, b| a.0 == b.0)
                .map(|group| (group[0].0, Bin { sum: group.iter().map(|g| g.2).sum(), rows: group.len() as u32 }));
            return scan(feature, values, whole, groups);
        }
        let (mut low, mut high) = (u32::MAX, 0);
        for &(row, y) in rows {
            let rank = ranks[row as usize];
            (low, high) = (low.min(rank), high.max(rank));
            let bin = &mut self.bins[rank as usize];
            bin.sum += y;
            bin.rows += 1;
        }
        let bins = &mut self.bins[low as usize..=high as usize];
        let offer = scan(feature, values, whole, (low..).zip(bins.iter().copied()).filter(|(_, bin)| bin.rows > 0));
        bins.fill(Bin::default());
        offer
    }

    /// Moves the rows that go left to the front, each side in its old order; how many they are.
    fn partition(&mut self, node: std::ops::Range<usize>, split: &Candidate) -> usize {
        let ranks = self.columns.ranks(split.feature);
        let rows = &mut self.order[node];
        self.right.clear();
        let mut left = 0;
        for at in 0..rows.len() {
            let row = rows[at];
            if ranks[row.0 as usize] <= split.rank {
                rows[left] = row;
                left += 1;
            } else {
                self.right.push(row);
            }
        }
        rows[left..].copy_from_slice(&self.right);
        left
    }
}

/// The best split along the values of a feature that a node holds, in rising order with what each sums up to.
fn scan(feature: usize, values: &[f32], whole: Bin, groups: impl Iterator<Item = (u32, Bin)>) -> Offer {
    let mut best: Option<(f64, u32, u32)> = None;
    let (mut left, mut before, mut first) = (Bin::default(), None, None);
    for (rank, bin) in groups {
        first.get_or_insert(rank);
        if let Some(before) = before
            && values[rank as usize] > values[before as usize] + SAME
        {
            let (l, r) = (f64::from(left.rows), f64::from(whole.rows - left.rows));
            let difference = r * left.sum - l * (whole.sum - left.sum);
            let improvement = difference * difference / (l * r);
            if best.is_none_or(|(highest, ..)| improvement > highest) {
                best = Some((improvement, before, rank));
            }
        }
        left.sum += bin.sum;
        left.rows += bin.rows;
        before = Some(rank);
    }
    let (Some(first), Some(last)) = (first, before) else { return Offer::Constant };
    if values[last as usize] <= values[first as usize] + SAME {
        return Offer::Constant;
    }
    Offer::Split(best.map(|(improvement, below, above)| {
        let half = |rank: u32| f64::from(values[rank as usize]) / 2.0;
        Candidate { feature, rank: below, threshold: half(below) + half(above), improvement }
    }))
}
