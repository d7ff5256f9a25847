use super::*;

/// A message made by hand.
#[derive(Default)]
pub(in super::super) struct Made(pub Vec<u8>);

impl Made {
    pub(in super::super) fn of(kind: u8) -> Self {
        Made(vec![kind])
    }
    pub(in super::super) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }
    pub(in super::super) fn u16(mut self, number: u16) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
    pub(in super::super) fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
    pub(in super::super) fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }
    pub(in super::super) fn name(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.byte(0)
    }
    /// A row; `-` is null, `~` unchanged.
    pub(in super::super) fn row(mut self, kind: u8, values: &[&str]) -> Self {
        self = self.byte(kind).u16(values.len() as u16);
        for value in values {
            self = match *value {
                "-" => self.byte(b'n'),
                "~" => self.byte(b'u'),
                text => {
                    let mut made = self.byte(b't').u32(text.len() as u32);
                    made.0.extend_from_slice(text.as_bytes());
                    made
                }
            };
        }
        self
    }
}

fn texts(message: &[u8], cells: &[Cell]) -> Vec<String> {
    let text = |cell: &Cell| match *cell {
        Cell::Null => "-".to_owned(),
        Cell::Unchanged => "~".to_owned(),
        Cell::Text(start, end) => String::from_utf8(message[start as usize..end as usize].to_vec()).unwrap(),
    };
    cells.iter().map(text).collect()
}

fn every_kind() -> Vec<Made> {
    let column = |made: Made, flags, name| made.byte(flags).name(name).u32(23).u32(u32::MAX);
    let relation = Made::of(b'R').u32(7).name("public").name("t").byte(b'i').u16(2);
    vec![
        Made::of(b'B').u64(0x100).u64(5).u32(77),
        Made::of(b'C').byte(0).u64(0x100).u64(0x130).u64(5),
        column(column(relation, 1, "id"), 0, "body"),
        Made::of(b'I').u32(7).row(b'N', &["1", "-"]),
        Made::of(b'U').u32(7).row(b'N', &["1", "~"]),
        Made::of(b'U').u32(7).row(b'K', &["1", "-"]).row(b'N', &["2", "x"]),
        Made::of(b'U').u32(7).row(b'O', &["1", "y"]).row(b'N', &["1", ""]),
        Made::of(b'D').u32(7).row(b'K', &["1", "-"]),
        Made::of(b'T').u32(2).byte(3).u32(7).u32(8),
        Made::of(b'M').byte(1).u64(0x90).name("p").u32(2).byte(1).byte(2),
    ]
}

#[test]
fn every_kind_is_read() {
    let made = every_kind();
    let mut cells = Cells::default();
    let mut read = |at: usize| super::read(&made[at].0, &mut cells).map(|read| format!("{read:?}")).unwrap();
    assert_eq!(read(0), format!("{:?}", Message::Begin { commit: Lsn(0x100), time_us: 5 }));
    assert_eq!(read(1), format!("{:?}", Message::Commit { commit: Lsn(0x100), end: Lsn(0x130) }));
    assert!(read(2).contains("identity: Index") && read(2).contains("name: \"body\", type_oid: 23, typmod: -1"));
    assert_eq!(read(8), format!("{:?}", Message::Truncate { relations: vec![7, 8] }));
    assert!(read(9).contains("in_transaction: true"));
    for (at, old, old_row, new_row) in [
        (4, Old::Nothing, &[][..], &["1", "~"][..]),
        (5, Old::Key, &["1", "-"][..], &["2", "x"][..]),
        (6, Old::Whole, &["1", "y"][..], &["1", ""][..]),
    ] {
        let mut cells = Cells::default();
        assert_eq!(super::read(&made[at].0, &mut cells), Ok(Message::Update { relation: 7, old }));
        assert_eq!(texts(&made[at].0, &cells.old), old_row);
        assert_eq!(texts(&made[at].0, &cells.new), new_row);
    }
    assert_eq!(super::read(b"Oanything", &mut Cells::default()), Ok(Message::Other));
}

#[test]
fn what_is_cut_off_or_too_long_is_refused() {
    let mut cells = Cells::default();
    for made in every_kind() {
        for length in 0..made.0.len() {
            assert!(super::read(&made.0[..length], &mut cells).is_err(), "{:?} to {length}", made.0);
        }
        assert!(super::read(&[&made.0[..], b"x"].concat(), &mut cells).is_err());
    }
    for bad in [&b"X"[..], b"I\0\0\0\x07K", b"U\0\0\0\x07X", b"D\0\0\0\x07N\0\0", b"T\xff\xff\xff\xff\0"] {
        assert!(super::read(bad, &mut cells).is_err());
    }
    let binary = Made::of(b'I').u32(7).byte(b'N').u16(1).byte(b'b').u32(0);
    assert!(super::read(&binary.0, &mut cells).unwrap_err().contains("binary"));
}

#[test]
fn random_bytes_never_panic() {
    use rand::{Rng, SeedableRng};
    let made = every_kind();
    for seed in 0..20_000 {
        let mut dice = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut bytes = made[dice.random_range(0..made.len())].0.clone();
        for _ in 0..dice.random_range(0..4) {
            let at = dice.random_range(0..bytes.len());
            bytes[at] = dice.random();
        }
        fuzz(&bytes);
    }
}
