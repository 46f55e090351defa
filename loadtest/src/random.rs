//! Random numbers of a run, by a seed, and Zipf's choice among users.
//!
//! Promises: the same seed gives the same choices. Never used for a password: those come from the system.

/// `SplitMix64` (Steele, Lea, Flood 2014): small, fast, good enough to choose with.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// By this seed.
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

    /// Below `bound`; 0 when that is 0. Multiply-shift: the bias is below 2⁻³².
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// From 0 up to, without, 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Chooses place 0 most often, place k in proportion to 1/(k+1)^s.
#[derive(Debug, Clone)]
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// Over `count` places; `s` = 0 is uniform. They are those that fall to one of so many parts when all are
    /// dealt in turn: by their places among all.
    #[must_use]
    pub fn new(count: usize, s: f64, (part, parts): (usize, usize)) -> Self {
        let mut sum = 0.0;
        let mut table: Vec<f64> = (0..count)
            .map(|place| {
                let rank = place * parts + part + 1;
                sum += (rank as f64).powf(-s);
                sum
            })
            .collect();
        table.iter_mut().for_each(|entry| *entry /= sum);
        Self(table)
    }

    /// A place; 0 when there is none.
    pub fn pick(&self, random: &mut Random) -> usize {
        let at = random.unit();
        self.0.partition_point(|&entry| entry <= at).min(self.0.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_chooses_alike() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        assert!((0..100).all(|_| a.next() == b.next()));
        assert!((0..1000).all(|_| a.below(10) < 10));
        assert_eq!(a.below(0), 0);
    }

    #[test]
    fn the_first_of_zipf_is_asked_in_proportion() {
        let (zipf, mut random) = (Zipf::new(100, 1.0, (0, 1)), Random::new(1));
        let mut seen = [0_u32; 100];
        (0..200_000).for_each(|_| seen[zipf.pick(&mut random)] += 1);
        let harmonic: f64 = (1..=100).map(|k| 1.0 / f64::from(k)).sum();
        for rank in [0, 1, 9, 99] {
            let expected = 200_000.0 / ((rank + 1) as f64 * harmonic);
            let got = f64::from(seen[rank]);
            assert!((got - expected).abs() < 5.0 * expected.sqrt(), "place {rank}: {got}, not {expected}");
        }
    }

    #[test]
    fn a_part_has_the_ranks_of_the_whole() {
        // The second of two has ranks 2, 4 and 6.
        let Zipf(table) = Zipf::new(3, 1.0, (1, 2));
        let whole = 1.0 / 2.0 + 1.0 / 4.0 + 1.0 / 6.0;
        assert!((table[0] - 0.5 / whole).abs() < 1e-9 && (table[1] - 0.75 / whole).abs() < 1e-9, "{table:?}");
    }

    #[test]
    fn an_exponent_of_zero_is_uniform() {
        let (zipf, mut random) = (Zipf::new(4, 0.0, (0, 1)), Random::new(1));
        let mut seen = [0_u32; 4];
        (0..40_000).for_each(|_| seen[zipf.pick(&mut random)] += 1);
        assert!(seen.iter().all(|&n| (9_500..10_500).contains(&n)), "{seen:?}");
    }
}
