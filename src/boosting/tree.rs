//! A regression tree as a list of nodes, root first, left subtree before right subtree.

/// `Node::feature` of a leaf.
pub(super) const LEAF: u16 = u16::MAX;

/// A split or a leaf.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// Feature that decides; `u16::MAX` in a leaf.
    pub feature: u16,
    /// The right child is so many nodes further on, the left one is the next; 0 in a leaf.
    pub right: u16,
    /// A row goes left when its value is at most this; in a leaf, its log odds before the learning rate.
    pub value: f64,
}

impl Node {
    /// A leaf.
    pub fn leaf(value: f64) -> Self {
        Node { feature: LEAF, right: 0, value }
    }
    /// Whether rows end here.
    pub fn is_leaf(&self) -> bool {
        self.feature == LEAF
    }
}

/// One tree of an ensemble.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    pub nodes: Vec<Node>,
}

impl Tree {
    /// What the tree says of a row; `value` gives the row's features.
    pub fn score(&self, value: impl Fn(usize) -> f32) -> f64 {
        let mut at = 0;
        loop {
            let node = &self.nodes[at];
            if node.is_leaf() {
                return node.value;
            }
            at += if f64::from(value(node.feature.into())) <= node.value { 1 } else { usize::from(node.right) };
        }
    }
    /// Whether the nodes are one tree over `features` features, in the order above.
    pub(super) fn is_sound(&self, features: usize) -> bool {
        // Ends of the subtrees that are still open; a node belongs to the innermost one.
        let mut open = vec![self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(end) = open.pop() else { return false };
            if node.is_leaf() {
                if end != at + 1 || node.right != 0 || !node.value.is_finite() {
                    return false;
                }
                continue;
            }
            let right = at + usize::from(node.right);
            if usize::from(node.feature) >= features || node.right < 2 || right >= end || !node.value.is_finite() {
                return false;
            }
            open.extend([end, right]);
        }
        open.is_empty() && !self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_trees_are_sound() {
        let split = |feature, right| Node { feature, right, value: 0.5 };
        let leaf = Node::leaf(1.0);
        let sound = |nodes: &[Node]| Tree { nodes: nodes.to_vec() }.is_sound(3);
        assert!(sound(&[leaf]) && sound(&[split(2, 2), leaf, leaf]));
        assert!(sound(&[split(0, 4), split(1, 2), leaf, leaf, split(2, 2), leaf, leaf]));
        assert!(!sound(&[]) && !sound(&[leaf, leaf]) && !sound(&[split(3, 2), leaf, leaf]));
        assert!(
            !sound(&[split(0, 1), leaf, leaf]) && !sound(&[split(0, 2), leaf]) && !sound(&[split(0, 3), leaf, leaf])
        );
        assert!(!sound(&[split(0, 4), split(1, 3), leaf, leaf, leaf]));
    }
}
