//! Zipf's law: few tenants have most of the events.
//!
//! **Invariants.** The same number of the same stream draws the same rank; another stream draws others. A phase is a
//! stream of its own, and must not find in the caches just those whom the phase before it drew.

use signalbox::sim::Dice;

/// Draws ranks `0..count`, of which rank `r` has a share of `1 / (r + 1)^exponent`.
#[derive(Debug)]
pub struct Zipf {
    count: usize,
    /// Shares summed up to each rank; empty when all are alike.
    summed: Vec<f64>,
}

impl Zipf {
    /// A distribution over `count` ranks; an exponent of 0 deals them out in turn.
    pub fn new(count: usize, exponent: f64) -> Self {
        let count = count.max(1);
        let mut sum = 0.0;
        let summed = if exponent > 0.0 {
            (1..=count)
                .map(|rank| {
                    sum += (rank as f64).powf(-exponent);
                    sum
                })
                .collect()
        } else {
            Vec::new()
        };
        Self { count, summed }
    }

    /// The rank of draw number `number` of a stream.
    pub fn draw(&self, stream: u16, number: u64) -> usize {
        let Some(whole) = self.summed.last() else { return (number % self.count as u64) as usize };
        // 53 random bits make an even number in 0..1.
        let even = (Dice::new(number ^ (u64::from(stream) << 48)).bits() >> 11) as f64 / (1_u64 << 53) as f64;
        self.summed.partition_point(|sum| *sum <= even * whole).min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_fall_as_the_law_says() {
        let zipf = Zipf::new(1000, 1.0);
        let mut drawn = vec![0_u32; 1000];
        for number in 0..200_000 {
            drawn[zipf.draw(0, number)] += 1;
        }
        // The harmonic number of 1000 is 7.485: the first has 13.4 %, the tenth a tenth of that.
        let share = |rank: usize| f64::from(drawn[rank]) / 200_000.0;
        assert!((share(0) - 0.1336).abs() < 0.005, "{}", share(0));
        assert!((share(9) - 0.0134).abs() < 0.002, "{}", share(9));
        assert!(drawn[500..].iter().sum::<u32>() > 10_000, "the tail is drawn too");
    }

    #[test]
    fn another_stream_draws_others() {
        let zipf = Zipf::new(100_000, 1.1);
        let drawn = |stream| (0..1000).map(|number| zipf.draw(stream, number)).collect::<Vec<_>>();
        let alike = std::iter::zip(drawn(3), drawn(4)).filter(|(one, other)| one == other).count();
        // By chance: the sum of the squares of all shares, some 2 %.
        assert!(alike < 60, "{alike} of 1000");
        assert_eq!(drawn(3), drawn(3));
        let of_both: std::collections::HashSet<_> = drawn(3).into_iter().chain(drawn(4)).collect();
        let of_one: std::collections::HashSet<_> = drawn(3).into_iter().collect();
        assert!(of_both.len() > of_one.len() * 3 / 2, "{} after {}", of_both.len(), of_one.len());
    }

    #[test]
    fn without_an_exponent_everybody_has_a_turn() {
        let even = Zipf::new(7, 0.0);
        let mut drawn: Vec<usize> = (0..7).map(|number| even.draw(1, number)).collect();
        drawn.sort_unstable();
        assert_eq!(drawn, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Zipf::new(1, 1.2).draw(1, 9), 0);
    }
}
