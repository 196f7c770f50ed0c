//! Features by column, as ranks among their distinct values.

/// Values closer than this are one value to a split, as in scikit-learn.
pub(super) const SAME: f32 = 1e-7;

/// A table of features. A histogram over the ranks of a feature is exact: each bin is a single value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    rows: usize,
    /// Rank of each row's value, by feature.
    ranks: Vec<Vec<u32>>,
    /// Distinct values in rising order, by feature.
    values: Vec<Vec<f32>>,
}

impl Columns {
    /// From the values of each feature, `[features][rows]`, finite.
    pub fn new(columns: Vec<Vec<f32>>) -> Self {
        let rows = columns.first().map_or(0, Vec::len);
        let mut all = Columns { rows, ..Columns::default() };
        for column in columns {
            assert_eq!(column.len(), rows, "one value per row");
            let mut values = column.clone();
            values.sort_unstable_by(f32::total_cmp);
            // Equality, not the order of bits: -0 is 0.
            values.dedup_by(|a, b| a == b);
            all.ranks.push(column.iter().map(|x| values.partition_point(|v| v < x) as u32).collect());
            all.values.push(values);
        }
        all
    }
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Number of features.
    pub fn features(&self) -> usize {
        self.ranks.len()
    }
    /// Value of a feature in a row.
    pub fn value(&self, feature: usize, row: usize) -> f32 {
        self.values[feature][self.ranks[feature][row] as usize]
    }
    /// Ranks of a feature, one a row.
    pub(super) fn ranks(&self, feature: usize) -> &[u32] {
        &self.ranks[feature]
    }
    /// Distinct values of a feature in rising order: those of its ranks.
    pub(super) fn values(&self, feature: usize) -> &[f32] {
        &self.values[feature]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_give_the_values_back() {
        let column = vec![3.5, -0.0, 0.0, 3.5, -2.0];
        let columns = Columns::new(vec![column.clone()]);
        assert_eq!((0..5).map(|row| columns.value(0, row)).collect::<Vec<_>>(), column);
        assert_eq!(columns.ranks(0), [2, 1, 1, 2, 0]);
    }
}
