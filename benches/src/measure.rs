//! Small things every benchmark needs: the middle of several measurements, and the program to measure.

use std::env;
use std::error::Error;
use std::path::PathBuf;

/// What a benchmark's `main` returns.
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

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
    fn numbers_are_spaced() {
        assert_eq!([1.0, 999.6, 12_345.0, 1e6].map(thousands), ["1", "1,000", "12,345", "1,000,000"]);
    }
}
