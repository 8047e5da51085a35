//! Pauses between tries of something that may not work for a while: each twice as long as the one before, up to a longest.
//!
//! Pure: whoever tries sleeps by itself. A sequence is a plain value, so that a constant can say its lengths and each use
//! of it begins with the first pause.

use std::time::Duration;

/// A sequence of pauses.
#[derive(Debug, Clone)]
pub struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    /// Pauses that double from the first one to the longest.
    pub const fn doubling(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause before the next try.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause
    }

    /// It worked: should it fail again, the pauses begin with the first.
    pub fn start_anew(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_success() {
        let mut pauses = Pauses::doubling(Duration::from_millis(500), Duration::from_secs(10));
        let lengths: Vec<_> = (0..7).map(|_| pauses.next_pause().as_millis()).collect();
        assert_eq!(lengths, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        pauses.start_anew();
        assert_eq!(pauses.next_pause(), Duration::from_millis(500));
    }

    #[test]
    fn each_use_of_a_constant_begins_with_the_first_pause() {
        const PAUSES: Pauses = Pauses::doubling(Duration::from_secs(1), Duration::MAX);
        let mut once = PAUSES;
        assert_eq!([once.next_pause(), once.next_pause()], [1, 2].map(Duration::from_secs));
        let mut again = PAUSES;
        assert_eq!(again.next_pause(), Duration::from_secs(1));
        again.next = Duration::MAX;
        assert_eq!([again.next_pause(), again.next_pause()], [Duration::MAX; 2]);
    }
}
