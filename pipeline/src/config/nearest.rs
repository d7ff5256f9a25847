//! What somebody probably meant.

/// The name nearest to a mistyped one, if one is near enough to be meant.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace('-', "_");
    let scored = names.into_iter().map(|name| (strsim::jaro_winkler(&typed, &name.to_lowercase()), name));
    let (score, name) = scored.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (score > 0.8).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let names = ["checkpoint_batch_size", "checkpoint_interval", "cache_size"];
        assert_eq!(nearest("chekpoint_batch_size", names), Some("checkpoint_batch_size"));
        assert_eq!(nearest("Cache-Size", names), Some("cache_size"));
        assert_eq!(nearest("zzz", names), None);
    }
}
