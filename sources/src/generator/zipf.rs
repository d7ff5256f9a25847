//! Draws numbers of which the n-th comes with a weight of `1 / n^exponent`, at the cost of one look into a table (Walker's alias
//! method).

pub(super) struct Zipf {
    many: u32,
    /// For each number: how much of its column is its own, as a share of 2^32, and whose the rest is. Empty if all are alike.
    columns: Vec<(u32, u32)>,
}

impl Zipf {
    pub(super) fn new(many: u32, exponent: f64) -> Self {
        if exponent == 0.0 {
            return Zipf { many, columns: Vec::new() };
        }
        let weights: Vec<f64> = (1..=many).map(|rank| f64::from(rank).powf(-exponent)).collect();
        let mean = weights.iter().sum::<f64>() / f64::from(many);
        let mut shares: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut columns: Vec<(u32, u32)> = (0..many).map(|number| (u32::MAX, number)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) = (0..many).partition(|number| shares[*number as usize] < 1.0);
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            let share = shares[poor as usize];
            columns[poor as usize] = ((share * f64::from(u32::MAX)) as u32, rich);
            shares[rich as usize] -= 1.0 - share;
            if shares[rich as usize] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        Zipf { many, columns }
    }

    /// The number that 64 random bits stand for, from 0.
    pub(super) fn sample(&self, bits: u64) -> u32 {
        // The upper half picks a column, the lower half a place in it.
        let column = ((bits >> 32) * u64::from(self.many)) >> 32;
        match self.columns.get(column as usize) {
            None => column as u32,
            Some((own, other)) => {
                if bits as u32 <= *own {
                    column as u32
                } else {
                    *other
                }
            }
        }
    }
}
