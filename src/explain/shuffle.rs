//! Backgrounds: sequences with the dinucleotides of another, or with its bases.

use crate::rng::Stream;

/// A shuffle that keeps the count of every pair of neighbours (and so the first and the last base), uniformly among all:
/// Altschul and Erickson 1985, by drawing a random Eulerian walk. N (4) is a fifth letter.
pub fn dinucleotides(codes: &[u8], random: &mut Stream) -> Vec<u8> {
    let Some(&last) = codes.last() else { return Vec::new() };
    let mut edges: [Vec<u8>; 5] = Default::default();
    for pair in codes.windows(2) {
        edges[usize::from(pair[0])].push(pair[1]);
    }
    // Last exits of all letters but the last one must lead there; drawn anew until they do.
    let mut exit = [0usize; 5];
    loop {
        for (letter, edges) in edges.iter().enumerate() {
            if !edges.is_empty() && letter != usize::from(last) {
                exit[letter] = random.below(edges.len() as u32) as usize;
            }
        }
        let arrives = |letter: usize| {
            let mut at = letter;
            for _ in 0..5 {
                if at == usize::from(last) {
                    return true;
                }
                at = usize::from(edges[at][exit[at]]);
            }
            at == usize::from(last)
        };
        if (0..5).all(|letter| edges[letter].is_empty() || arrives(letter)) {
            break;
        }
    }
    for (letter, edges) in edges.iter_mut().enumerate() {
        if letter == usize::from(last) {
            random.shuffle(edges);
        } else if let Some(end) = edges.len().checked_sub(1) {
            edges.swap(exit[letter], end);
            random.shuffle(&mut edges[..end]);
        }
    }
    let (mut out, mut next) = (vec![codes[0]], [0usize; 5]);
    while out.len() < codes.len() {
        let at = usize::from(*out.last().expect("not empty"));
        out.push(edges[at][next[at]]);
        next[at] += 1;
    }
    out
}

/// Shares of A, C, G, T among the known bases; a quarter each without any.
pub fn composition<'a>(codes: impl IntoIterator<Item = &'a u8>) -> [f64; 4] {
    let mut counts = [0.0f64; 4];
    codes.into_iter().filter(|&&c| c < 4).for_each(|&c| counts[usize::from(c)] += 1.0);
    let sum: f64 = counts.iter().sum();
    if sum > 0.0 { counts.map(|c| c / sum) } else { [0.25; 4] }
}

/// A base of this composition.
pub fn draw(shares: &[f64; 4], random: &mut Stream) -> u8 {
    let mut u = random.uniform_f64();
    for (code, share) in shares.iter().enumerate() {
        if u < *share {
            return code as u8;
        }
        u -= share;
    }
    3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffles_keep_every_pair_of_neighbours_and_differ() {
        let counts = |codes: &[u8]| {
            let mut counts = [[0u32; 5]; 5];
            codes.windows(2).for_each(|w| counts[usize::from(w[0])][usize::from(w[1])] += 1);
            counts
        };
        let mut random = Stream::new(4, 1, 0);
        for length in [0, 1, 2, 3, 17, 400] {
            let codes: Vec<u8> = (0..length).map(|_| (random.below(21) / 5) as u8).collect();
            let shuffled = dinucleotides(&codes, &mut random);
            assert_eq!(counts(&codes), counts(&shuffled), "{length}");
            assert!(length < 100 || codes != shuffled);
        }
    }
}
