//! The order in which the gradients of a step's passes are summed: a binary tree over all passes. Its shape only depends on
//! their number, so the sum has the same bits on any number of ranks.

use std::{iter::Peekable, ops::Range};

use tweedie_system::ranks::share;

/// A subtree: the passes below it.
pub(crate) type Node = Range<usize>;

/// Both sides of a tree: the left one has the largest power of two of leaves below their number.
fn sides(node: &Node) -> [Node; 2] {
    let middle = node.start + node.len().next_power_of_two() / 2;
    [node.start..middle, middle..node.end]
}

/// The largest subtrees of `node` that lie within `own`, from left to right.
pub(super) fn within(node: Node, own: &Node) -> Vec<Node> {
    if node.start >= own.end || node.end <= own.start {
        return Vec::new();
    }
    if own.start <= node.start && node.end <= own.end {
        return vec![node];
    }
    sides(&node).into_iter().flat_map(|side| within(side, own)).collect()
}

/// The largest subtrees within the passes of each of `count` ranks, all of which have `passes`.
pub(super) fn of_ranks(passes: usize, count: usize) -> Vec<Vec<Node>> {
    (0..count).map(|rank| within(0..passes, &share(passes, rank, count))).collect()
}

/// The sum of a subtree; leaves are computed from left to right.
pub(super) fn sum<T, E>(
    node: Node,
    leaf: &mut impl FnMut(usize) -> Result<T, E>,
    add: &impl Fn(T, T) -> T,
) -> Result<T, E> {
    if node.len() <= 1 {
        return leaf(node.start);
    }
    let [left, right] = sides(&node);
    let left = sum(left, leaf, add)?;
    Ok(add(left, sum(right, leaf, add)?))
}

/// The sum of `node` from those of subtrees that cover it, from left to right. `None` if they do not.
pub(super) fn join<T>(
    node: Node,
    parts: &mut Peekable<impl Iterator<Item = (Node, T)>>,
    add: &impl Fn(T, T) -> T,
) -> Option<T> {
    if let Some((_, part)) = parts.next_if(|(part, _)| *part == node) {
        return Some(part);
    }
    if node.len() <= 1 {
        return None;
    }
    let [left, right] = sides(&node);
    let left = join(left, parts, add)?;
    Some(add(left, join(right, parts, add)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as text.
    fn whole(leaves: usize) -> String {
        let leaf = &mut |pass: usize| Ok::<_, ()>(pass.to_string());
        sum(0..leaves, leaf, &|a, b| format!("({a}{b})")).unwrap()
    }

    #[test]
    fn the_tree_is_that_of_pairs() {
        assert_eq!(whole(1), "0");
        // Two and three passes are summed one after the other.
        assert_eq!(whole(3), "((01)2)");
        assert_eq!(whole(4), "((01)(23))");
        assert_eq!(whole(7), "(((01)(23))((45)6))");
    }

    #[test]
    fn it_does_not_depend_on_the_ranks() {
        for leaves in 1..20 {
            for count in 1..=leaves {
                let parts = (0..count).flat_map(|rank| within(0..leaves, &share(leaves, rank, count)));
                let parts = parts.map(|node| {
                    let leaf = &mut |pass: usize| Ok::<_, ()>(pass.to_string());
                    (node.clone(), sum(node, leaf, &|a, b| format!("({a}{b})")).unwrap())
                });
                let joined = join(0..leaves, &mut parts.peekable(), &|a, b| format!("({a}{b})"));
                assert_eq!(joined.unwrap(), whole(leaves), "{leaves} on {count}");
            }
        }
        assert_eq!(join(0..2, &mut [(0..1, 0)].into_iter().peekable(), &|a, b| a + b), None);
    }
}
