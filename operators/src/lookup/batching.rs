//! How many keys are asked for together, and how long the first of them waits for others: fixed, or fitted to what the origin can do.

use std::time::{Duration, Instant};

/// What batches are fitted to. See [`Lookup::adaptive`](super::Lookup::adaptive).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    /// How long a key may wait for its row, the wait for others of its batch included, in 95 of 100 cases.
    pub max_latency: Duration,
    /// Keys per second that are to be loaded, as long as so many are asked for.
    pub min_throughput: f64,
    /// How often batches are fitted.
    pub interval: Duration,
}

impl Default for Adaptive {
    /// 100 ms, 1,000 keys per second, every second.
    fn default() -> Self {
        Adaptive { max_latency: Duration::from_millis(100), min_throughput: 1_000.0, interval: Duration::from_secs(1) }
    }
}

/// The shape of batches: keys at most, and how long the first waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub keys_max: usize,
    pub window: Duration,
}

/// What was seen of the batches of an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// Keys per second.
    throughput: f64,
    keys_mean: f64,
    /// Share of the batches that had no room for more.
    full: f64,
    /// How long the first key of a batch waited until it was asked for, the window included: 95 of 100 waited no longer.
    queued: Duration,
    /// Of loading: 95 of 100 took no longer.
    latency: Duration,
}

/// Fewer keys are never asked for together.
const KEYS_MIN: usize = 8;
/// The shortest step of a window.
const WINDOW_STEP: Duration = Duration::from_micros(500);

/// The shape that fits better, and why; `None` if it is well as it is.
fn fit(now: Shape, most: Shape, aim: &Adaptive, seen: &Seen) -> Option<(Shape, &'static str)> {
    let waits = seen.queued.max(now.window) + seen.latency;
    let longer = (now.window * 2).max(WINDOW_STEP).min(most.window);
    // Keys that wait beyond their window wait for a batch that is under way.
    let is_short = seen.throughput < aim.min_throughput || seen.queued > now.window * 2 + WINDOW_STEP;
    let is_full = seen.full >= 0.5;
    let larger = Shape { keys_max: (now.keys_max * 3).div_ceil(2).min(most.keys_max), ..now };
    let (next, why) = if is_full && is_short {
        // Whatever one batch takes, keys that find no room in any wait longer.
        (larger, "more is asked for than comes: batches are larger")
    } else if waits > aim.max_latency {
        // A window is waited for in any case; only then are fewer keys quicker.
        if now.window > WINDOW_STEP {
            (Shape { window: now.window / 2, ..now }, "rows come too late: the window is shorter")
        } else if is_full {
            let fewer = (now.keys_max / 2).max(KEYS_MIN.min(most.keys_max));
            (Shape { keys_max: fewer, ..now }, "rows come too late: batches are smaller")
        } else {
            return None;
        }
    } else if is_full && waits * 2 <= aim.max_latency {
        (larger, "batches are full, and there is time: they are larger")
    } else if longer > now.window && longer + seen.latency <= aim.max_latency.mul_f64(0.8) {
        let keys_max = if seen.keys_mean < 0.7 * now.keys_max as f64 { now.keys_max } else { larger.keys_max };
        (Shape { keys_max, window: longer }, "there is time: batches are gathered for longer")
    } else {
        return None;
    };
    (next != now).then_some((next, why))
}

/// The shape as it is now, and what was seen since it was last fitted.
pub(super) struct Batching {
    shape: Shape,
    most: Shape,
    aim: Option<Adaptive>,
    since: Instant,
    batches: usize,
    full: usize,
    keys: usize,
    queued: Vec<Duration>,
    took: Vec<Duration>,
}

/// Times that are kept of an interval.
const TIMES_MAX: usize = 10_000;

impl Batching {
    pub(super) fn new(most: Shape, aim: Option<Adaptive>, now: Instant) -> Self {
        // It begins small and quick, and grows as batches fill.
        let begins = Shape { keys_max: most.keys_max.min(32), window: most.window.min(WINDOW_STEP) };
        let shape = if aim.is_some() { begins } else { most };
        Batching { shape, most, aim, since: now, batches: 0, full: 0, keys: 0, queued: Vec::new(), took: Vec::new() }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// A batch of so many keys was loaded: the first was queued for so long, and then it took so long. Returns why the shape is another now, if it is.
    pub(super) fn loaded(&mut self, keys: usize, queued: Duration, took: Duration, now: Instant) -> Option<&'static str> {
        let aim = self.aim?;
        self.batches += 1;
        self.keys += keys;
        self.full += usize::from(keys >= self.shape.keys_max);
        if self.took.len() < TIMES_MAX {
            self.queued.push(queued);
            self.took.push(took);
        }
        let since = now.saturating_duration_since(self.since);
        if since < aim.interval {
            return None;
        }
        let late = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            let late = times[(times.len() * 95 / 100).min(times.len() - 1)];
            times.clear();
            late
        };
        let seen = Seen {
            throughput: self.keys as f64 / since.as_secs_f64().max(1e-9),
            keys_mean: self.keys as f64 / self.batches as f64,
            full: self.full as f64 / self.batches as f64,
            queued: late(&mut self.queued),
            latency: late(&mut self.took),
        };
        (self.since, self.batches, self.full, self.keys) = (now, 0, 0, 0);
        let (next, why) = fit(self.shape, self.most, &aim, &seen)?;
        self.shape = next;
        Some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Shape = Shape { keys_max: 500, window: Duration::from_millis(20) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An origin that takes a fixed time and some per key, asked by `rate` keys per second for a minute; batches' mean, and how long a key waits at last.
    fn settle(rate: f64, fixed: Duration, per_key: Duration, aim: Adaptive) -> (Shape, f64, Duration) {
        let begin = Instant::now();
        let mut batching = Batching::new(MOST, Some(aim), begin);
        let (mut now, mut keys, mut took) = (Duration::ZERO, 0, Duration::ZERO);
        while now < ms(60_000) {
            let shape = batching.shape();
            // What has come while the window was open; several batches are under way at once, so it alone decides.
            keys = ((rate * shape.window.as_secs_f64()) as usize).clamp(1, shape.keys_max);
            took = fixed + per_key * keys as u32;
            now += shape.window.max(Duration::from_secs_f64(keys as f64 / rate));
            batching.loaded(keys, shape.window, took, begin + now);
        }
        (batching.shape(), keys as f64, batching.shape().window + took)
    }

    #[test]
    fn batches_grow_while_there_is_time() {
        let (shape, mean, waits) = settle(10_000.0, ms(5), Duration::from_micros(10), Adaptive::default());
        assert!(mean > 100.0 && waits < ms(100), "{shape:?}: {mean} keys, {waits:?}");
    }

    #[test]
    fn what_comes_too_late_is_asked_for_sooner() {
        let aim = Adaptive { max_latency: ms(10), ..Adaptive::default() };
        let (shape, mean, waits) = settle(10_000.0, ms(4), Duration::from_micros(10), aim);
        assert!(waits <= ms(10), "{shape:?}: {mean} keys, {waits:?}");
        let (shape, ..) = settle(10_000.0, ms(50), Duration::from_micros(10), aim);
        assert!(shape.window <= WINDOW_STEP, "an origin that is too slow at best: {shape:?}");
    }

    #[test]
    fn a_few_keys_wait_no_longer_than_the_most() {
        let (shape, ..) = settle(20.0, ms(2), Duration::ZERO, Adaptive::default());
        assert!(shape.window <= MOST.window, "{shape:?}");
    }

    #[test]
    fn a_shape_that_fits_stays() {
        let seen = Seen { throughput: 9_000.0, keys_mean: 180.0, full: 0.1, queued: ms(20), latency: ms(60) };
        let now = Shape { keys_max: 200, window: ms(20) };
        assert_eq!(fit(now, MOST, &Adaptive::default(), &seen), None);
        let most = Shape { keys_max: 500, window: ms(20) };
        let slow = Seen { latency: ms(90), ..seen };
        assert_eq!(fit(now, most, &Adaptive::default(), &slow).unwrap().0, Shape { window: ms(10), ..now });
        let short = Seen { full: 0.9, throughput: 100.0, ..slow };
        assert_eq!(fit(now, most, &Adaptive::default(), &short).unwrap().0.keys_max, 300, "what finds no room waits longer");
        let in_line = Seen { full: 0.9, queued: ms(100), ..seen };
        assert_eq!(fit(now, most, &Adaptive::default(), &in_line).unwrap().0.keys_max, 300, "so does what waits for its turn");
        let quick = Shape { window: WINDOW_STEP, ..now };
        let per_key = Seen { full: 0.9, queued: WINDOW_STEP, latency: ms(150), ..seen };
        assert_eq!(fit(quick, most, &Adaptive::default(), &per_key).unwrap().0.keys_max, 100);
        let full = Seen { full: 0.9, latency: ms(20), ..seen };
        assert_eq!(fit(now, most, &Adaptive::default(), &full).unwrap().0, Shape { keys_max: 300, ..now });
    }

    #[test]
    fn without_an_aim_nothing_moves() {
        let begin = Instant::now();
        let mut batching = Batching::new(MOST, None, begin);
        assert_eq!(batching.loaded(500, ms(1), ms(5_000), begin + ms(60_000)), None);
        assert_eq!(batching.shape(), MOST);
    }
}
