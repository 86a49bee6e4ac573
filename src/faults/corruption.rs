//! Flipping about 3 % of the bits of a body, piece by piece.

use fastrand::Rng;

/// The share of bits that are flipped.
const SHARE: f64 = 0.03;

/// The flips in the next pieces.
#[derive(Debug)]
pub struct Corruption {
    rng: Rng,
    /// Bits until the next flip.
    gap: u64,
    /// No bit was flipped yet.
    untouched: bool,
}

impl Corruption {
    /// The same seed flips the same bits in any division into pieces, except for the first flip.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let gap = next_gap(&mut rng);
        Self { rng, gap, untouched: true }
    }

    /// Flips bits of the next piece. At least one bit of the first non-empty piece is flipped, so that short bodies are
    /// corrupted too.
    pub fn flip(&mut self, piece: &mut [u8]) {
        let bits = piece.len() as u64 * 8;
        if bits == 0 {
            return;
        }
        if std::mem::take(&mut self.untouched) {
            self.gap %= bits;
        }
        while self.gap < bits {
            if let Some(byte) = piece.get_mut((self.gap / 8) as usize) {
                *byte ^= 1 << (self.gap % 8);
            }
            self.gap += 1 + next_gap(&mut self.rng);
        }
        self.gap -= bits;
    }
}

/// Unchanged bits between two flips: geometrically distributed, so that each bit has the same probability and only flipped
/// bits cost time.
fn next_gap(rng: &mut Rng) -> u64 {
    // 1 − f64() lies in (0, 1], whose logarithm is finite.
    ((1.0 - rng.f64()).ln() / (1.0 - SHARE).ln()) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flipped(before: &[u8], after: &[u8]) -> u32 {
        before.iter().zip(after).map(|(before, after)| (before ^ after).count_ones()).sum()
    }

    #[test]
    fn about_three_percent_of_the_bits_are_flipped() {
        for seed in 0..20 {
            let mut body = vec![0x5a; 100_000];
            let mut corruption = Corruption::new(seed);
            for piece in body.chunks_mut(777) {
                corruption.flip(piece);
            }
            let share = f64::from(flipped(&vec![0x5a; 100_000], &body)) / 800_000.0;
            assert!((0.028..0.032).contains(&share), "{share}");
        }
    }

    proptest! {
        #[test]
        fn a_body_is_never_left_as_it_was(seed: u64, body in proptest::collection::vec(any::<u8>(), 1..50)) {
            let mut corrupted = body.clone();
            let mut corruption = Corruption::new(seed);
            corruption.flip(&mut []);
            corruption.flip(&mut corrupted);
            prop_assert!(flipped(&body, &corrupted) > 0);
        }
    }
}
