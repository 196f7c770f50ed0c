//! Growing one regression tree, as scikit-learn's depth-first builder with its best splitter does.
//!
//! A split maximises Friedman's improvement `(w_r·Σ_l − w_l·Σ_r)² / (w_l·w_r)` (`w` the weight of the rows of a side, `Σ` their
//! weighted targets), which orders the splits of one node as the squared error does, between two values of a feature, at
//! their middle. Features are drawn without replacement until
//! enough were seen and one of them was not constant; the first of equal candidates wins.

use super::columns::{Columns, SAME};
use super::ensemble::Growth;
use super::tree::{Node, Tree};
use crate::rng::Stream;

/// Impurity of a pure node.
const PURE: f64 = f64::EPSILON;
/// A feature with more than this many distinct values per row of a node is sorted instead of counted.
const SORT_BEYOND: usize = 12;

/// A row in its node.
#[derive(Clone, Copy, Default)]
pub(super) struct Row {
    pub row: u32,
    /// Its label is 1.
    pub positive: bool,
    pub target: f64,
}

impl Row {
    /// The target times the row's weight.
    pub fn weighted(&self, positive: f64) -> f64 {
        if self.positive { positive * self.target } else { self.target }
    }
}

/// Rows of one value of a feature.
#[derive(Clone, Copy, Default)]
struct Bin {
    /// Of their weighted targets.
    sum: f64,
    rows: u32,
    positives: u32,
}

impl Bin {
    /// A row, its target weighted; `positive` is the weight of a row whose label is 1, the others weigh 1.
    fn push(&mut self, row: &Row, positive: f64) {
        self.sum += row.weighted(positive);
        self.rows += 1;
        self.positives += u32::from(row.positive);
    }
    fn weight(&self, positive: f64) -> f64 {
        f64::from(self.rows - self.positives) + positive * f64::from(self.positives)
    }
}

impl std::ops::AddAssign for Bin {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.rows += other.rows;
        self.positives += other.positives;
    }
}

impl std::ops::Sub for Bin {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Bin { sum: self.sum - other.sum, rows: self.rows - other.rows, positives: self.positives - other.positives }
    }
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
    labels: &'a [u8],
    depth: usize,
    tried: usize,
    /// The rows, those of a node side by side, each with its target.
    order: Vec<Row>,
    right: Vec<Row>,
    /// All empty between uses.
    bins: Vec<Bin>,
    /// Rank and row.
    sorted: Vec<(u32, Row)>,
    /// Weight of a row whose label is 1; the others weigh 1.
    positive: f64,
    /// Weight of all rows.
    total: f64,
    drawn: Vec<usize>,
    /// Reduction of squared error by each feature's splits, over all trees so far, as a share of the rows' weight.
    pub importances: Vec<f64>,
}

impl<'a> Grower<'a> {
    /// For trees over `rows` of `columns`, those with `labels` 1 (of the whole table) weighing `positive`.
    pub fn new(columns: &'a Columns, rows: &'a [u32], labels: &'a [u8], positive: f64, growth: &Growth) -> Self {
        let widest = (0..columns.features()).map(|f| columns.values(f).len()).max().unwrap_or(0);
        Grower {
            columns,
            rows,
            labels,
            positive,
            depth: growth.depth,
            tried: growth.tried,
            total: rows.iter().map(|&r| if labels[r as usize] == 1 { positive } else { 1.0 }).sum(),
            order: vec![Row::default(); rows.len()],
            right: Vec::with_capacity(rows.len()),
            bins: vec![Bin::default(); widest],
            sorted: Vec::new(),
            drawn: (0..columns.features()).collect(),
            importances: vec![0.0; columns.features()],
        }
    }
    /// The rows of a leaf, each with its target.
    pub fn order(&self, range: &std::ops::Range<usize>) -> &[Row] {
        &self.order[range.clone()]
    }

    /// A tree for `targets` (one per row of the table); its leaves hold 0.
    pub fn grow(&mut self, targets: &[f64], random: &mut Stream) -> Grown {
        for (o, &row) in self.order.iter_mut().zip(self.rows) {
            *o = Row { row, positive: self.labels[row as usize] == 1, target: targets[row as usize] };
        }
        let (mut nodes, mut leaves): (Vec<Node>, Vec<_>) = (Vec::new(), Vec::new());
        let constant = vec![false; self.columns.features()];
        let mut pending = vec![Pending { start: 0, end: self.order.len(), depth: 0, right_of: None, constant }];
        while let Some(Pending { start, end, depth, right_of, mut constant }) = pending.pop() {
            let at = nodes.len();
            if let Some(parent) = right_of {
                nodes[parent].right = (at - parent) as u16;
            }
            let (mut whole, mut squares) = (Bin::default(), 0.0);
            for row in &self.order[start..end] {
                whole.push(row, self.positive);
                squares += row.weighted(self.positive) * row.target;
            }
            let weight = whole.weight(self.positive);
            let impurity = squares / weight - (whole.sum / weight) * (whole.sum / weight);
            let leaf = depth >= self.depth || end - start < 2 || impurity <= PURE;
            let best = if leaf { None } else { self.best(start..end, whole, &mut constant, random) };
            let Some(best) = best else {
                nodes.push(Node::leaf(0.0));
                leaves.push((at, start..end));
                continue;
            };
            nodes.push(Node { feature: best.feature as u16, right: 0, value: best.threshold });
            // (w_r·Σ_l − w_l·Σ_r)² / (w_l·w_r) is w times the reduction of the node's sum of squares.
            self.importances[best.feature] += best.improvement / weight / self.total;
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
        whole: Bin,
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
            match self.offer(feature, node.clone(), whole) {
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
    fn offer(&mut self, feature: usize, node: std::ops::Range<usize>, whole: Bin) -> Offer {
        let (ranks, values) = (self.columns.ranks(feature), self.columns.values(feature));
        let rows = &self.order[node];
        let positive = self.positive;
        if values.len() > SORT_BEYOND * rows.len() {
            self.sorted.clear();
            self.sorted.extend(rows.iter().map(|&row| (ranks[row.row as usize], row)));
            self.sorted.sort_unstable_by_key(|&(rank, row)| (rank, row.row));
            let groups = self.sorted.chunk_by(|a, b| a.0 == b.0).map(|group| {
                let mut bin = Bin::default();
                group.iter().for_each(|(_, row)| bin.push(row, positive));
                (group[0].0, bin)
            });
            return scan(feature, values, whole, positive, groups);
        }
        let (mut low, mut high) = (u32::MAX, 0);
        for row in rows {
            let rank = ranks[row.row as usize];
            (low, high) = (low.min(rank), high.max(rank));
            self.bins[rank as usize].push(row, positive);
        }
        let bins = &mut self.bins[low as usize..=high as usize];
        let offer =
            scan(feature, values, whole, positive, (low..).zip(bins.iter().copied()).filter(|(_, bin)| bin.rows > 0));
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
            if ranks[row.row as usize] <= split.rank {
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
fn scan(feature: usize, values: &[f32], whole: Bin, positive: f64, groups: impl Iterator<Item = (u32, Bin)>) -> Offer {
    let mut best: Option<(f64, u32, u32)> = None;
    let (mut left, mut before, mut first) = (Bin::default(), None, None);
    for (rank, bin) in groups {
        first.get_or_insert(rank);
        if let Some(before) = before
            && values[rank as usize] > values[before as usize] + SAME
        {
            let right = whole - left;
            let (l, r) = (left.weight(positive), right.weight(positive));
            let difference = r * left.sum - l * right.sum;
            let improvement = difference * difference / (l * r);
            if best.is_none_or(|(highest, ..)| improvement > highest) {
                best = Some((improvement, before, rank));
            }
        }
        left += bin;
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
