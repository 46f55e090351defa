//! Seeded random numbers, and a choice by Zipf's law.
//!
//! Promises: the same seed gives the same choices. Never used for a password: passwords come from the system.

/// `SplitMix64` (Steele, Lea, Flood 2014): small, fast, good enough to choose with.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0. Multiply-shift: the bias is below 2⁻³².
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// A number from 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One of several equal parts, such as one thread of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// Which part, from 0.
    pub index: usize,
    /// How many parts there are.
    pub count: usize,
}

/// Chooses index 0 most often, index k in proportion to 1/(k+1)^s.
#[derive(Debug, Clone)]
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// A choice among `count` indexes; `s` = 0 is uniform. If all ranks are dealt to the parts in turn, these
    /// are the ranks of `part`.
    #[must_use]
    pub fn new(count: usize, s: f64, part: Part) -> Self {
        let mut sum = 0.0;
        let mut table: Vec<f64> = (0..count)
            .map(|place| {
                let rank = place * part.count + part.index + 1;
                sum += (rank as f64).powf(-s);
                sum
            })
            .collect();
        table.iter_mut().for_each(|entry| *entry /= sum);
        Self(table)
    }

    /// A random index; 0 if there is none.
    pub fn pick(&self, random: &mut Random) -> usize {
        let at = random.unit();
        self.0.partition_point(|&entry| entry <= at).min(self.0.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_numbers() {
        let mut a = Random::new(7);
        let mut b = Random::new(7);
        assert!((0..100).all(|_| a.next() == b.next()));
        assert!((0..1000).all(|_| a.below(10) < 10));
        assert_eq!(a.below(0), 0);
    }

    #[test]
    fn zipf_picks_in_proportion_to_rank() {
        let zipf = Zipf::new(100, 1.0, Part { index: 0, count: 1 });
        let mut random = Random::new(1);
        let mut seen = [0_u32; 100];
        (0..200_000).for_each(|_| seen[zipf.pick(&mut random)] += 1);
        let harmonic: f64 = (1..=100).map(|k| 1.0 / f64::from(k)).sum();
        for rank in [0, 1, 9, 99] {
            let expected = 200_000.0 / ((rank + 1) as f64 * harmonic);
            let got = f64::from(seen[rank]);
            assert!((got - expected).abs() < 5.0 * expected.sqrt(), "rank {rank}: {got}, not {expected}");
        }
    }

    #[test]
    fn part_has_its_ranks_of_the_whole() {
        // The second of two has ranks 2, 4 and 6.
        let Zipf(table) = Zipf::new(3, 1.0, Part { index: 1, count: 2 });
        let whole = 1.0 / 2.0 + 1.0 / 4.0 + 1.0 / 6.0;
        assert!((table[0] - 0.5 / whole).abs() < 1e-9 && (table[1] - 0.75 / whole).abs() < 1e-9, "{table:?}");
    }

    #[test]
    fn exponent_of_zero_is_uniform() {
        let zipf = Zipf::new(4, 0.0, Part { index: 0, count: 1 });
        let mut random = Random::new(1);
        let mut seen = [0_u32; 4];
        (0..40_000).for_each(|_| seen[zipf.pick(&mut random)] += 1);
        assert!(seen.iter().all(|&n| (9_500..10_500).contains(&n)), "{seen:?}");
    }
}
