//! Small things every benchmark needs: the middle of several measurements, and the program to measure.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// What a benchmark's `main` returns.
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What something took: by the clock, and of the processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// Seconds by the clock.
    pub seconds: f64,
    /// Seconds of processor time, over all threads of this process.
    pub cpu_seconds: f64,
}

/// Measures what something takes.
#[derive(Debug)]
pub struct Stopwatch {
    started: Instant,
    cpu: f64,
}

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Self {
        Stopwatch { started: Instant::now(), cpu: cpu_seconds() }
    }

    /// What it took since the start.
    pub fn took(&self) -> Took {
        Took { seconds: self.started.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds() - self.cpu }
    }
}

/// Processor time of this process, ended threads included; 0 where the system does not say. Counted in hundredths.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in brackets, which may hold blanks; behind it, user and system time are 12th and 13th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let hundredths = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0);
    (hundredths(11) + hundredths(12)) / 100.0
}

/// The middle of several measurements, or the mean of the two in the middle; 0 of none.
pub fn median(measurements: &[f64]) -> f64 {
    let mut sorted = measurements.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 0 => (sorted[count / 2 - 1] + sorted[count / 2]) / 2.0,
        count => sorted[count / 2],
    }
}

/// The smallest and the largest measurement, as `(a-b)`, with so many digits behind the point.
pub fn range(measurements: &[f64], digits: usize) -> String {
    let least = measurements.iter().copied().fold(f64::INFINITY, f64::min);
    let most = measurements.iter().copied().fold(0.0, f64::max);
    format!("({least:.digits$}-{most:.digits$})")
}

/// A program that cargo built beside this one, such as `examples/orders`.
///
/// # Errors
///
/// A sentence, if it was not built.
pub fn built_beside(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let mut program = env::current_exe()?;
    program.pop();
    program.push(name);
    if program.exists() {
        Ok(program)
    } else {
        Err(format!("{} is not there: build it with the same profile first, or name another", program.display()).into())
    }
}

/// A number with its thousands apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut spaced = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            spaced.push(',');
        }
        spaced.push(digit);
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!([median(&[]), median(&[3.0]), median(&[9.0, 1.0, 2.0]), median(&[4.0, 1.0])], [0.0, 3.0, 2.0, 2.5]);
    }

    #[test]
    fn the_processor_counts() {
        let watch = Stopwatch::start();
        let mut n = 0_u64;
        while watch.took().seconds < 0.05 {
            n = std::hint::black_box(n + 1);
        }
        let took = watch.took();
        assert!(took.cpu_seconds > 0.0 && took.cpu_seconds < took.seconds * 64.0, "{took:?} {n}");
    }

    #[test]
    fn numbers_are_spaced() {
        assert_eq!([1.0, 999.6, 12_345.0, 1e6].map(thousands), ["1", "1,000", "12,345", "1,000,000"]);
    }
}
