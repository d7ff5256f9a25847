//! What an answer means for the change: delivered, to be tried again, or parked.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Delivered,
    Retry,
    Park,
}

/// What each status means; what is said here goes before what is usual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    pub retry: Vec<u16>,
    pub park: Vec<u16>,
    pub accept: Vec<u16>,
}

impl Policy {
    pub(crate) fn judge(&self, status: u16) -> Verdict {
        match status {
            _ if self.accept.contains(&status) => Verdict::Delivered,
            _ if self.park.contains(&status) => Verdict::Park,
            _ if self.retry.contains(&status) => Verdict::Retry,
            200..=299 => Verdict::Delivered,
            // 1xx are no answers.
            408 | 425 | 429 | 500..=599 | 0..=199 => Verdict::Retry,
            _ => Verdict::Park,
        }
    }

    /// What two lists claim.
    pub(crate) fn problem(&self) -> Option<String> {
        let twice = |a: &[u16], b: &[u16]| a.iter().find(|status| b.contains(status)).copied();
        let status = twice(&self.retry, &self.park).or(twice(&self.retry, &self.accept)).or(twice(&self.park, &self.accept))?;
        Some(format!("status {status} is said to mean two things; name it in one of retry_on, park_on and accept"))
    }
}

/// A status in words, with what to do about it where that is not plain.
pub(crate) fn words(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let hint = match status {
        300..=399 => "; redirects are not followed, name the address it leads to",
        401 | 403 => "; are its credentials right?",
        410 => "; the endpoint is gone for good",
        _ => "",
    };
    format!("{status}{}{hint}", reason.map(|reason| format!(" {reason}")).unwrap_or_default())
}

/// What `Retry-After` says: seconds, or a date; no more than `most`.
pub(crate) fn retry_after(header: &str, now: SystemTime, most: Duration) -> Option<Duration> {
    let header = header.trim();
    let wait = match header.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(header).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_means_something() {
        let policy = Policy { retry: vec![404], park: vec![503], accept: vec![409] };
        let judged = |status| policy.judge(status);
        assert!([200, 201, 204, 299, 409].into_iter().all(|status| judged(status) == Verdict::Delivered));
        assert!([408, 425, 429, 500, 502, 504, 404].into_iter().all(|status| judged(status) == Verdict::Retry));
        assert!([301, 302, 400, 401, 410, 422, 503, 999].into_iter().all(|status| judged(status) == Verdict::Park));
        assert!(policy.problem().is_none());
        let twice = Policy { park: vec![404], ..policy };
        assert!(twice.problem().unwrap().contains("404"));
        assert!(words(302).contains("302 Found; redirects are not followed") && words(799) == "799");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_400);
        let most = Duration::from_secs(300);
        let read = |header| retry_after(header, now, most);
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read("999999999999"), Some(most));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(80)));
        assert_eq!(read("Wed, 21 Oct 2015 07:20:00 GMT"), Some(Duration::ZERO));
        assert_eq!((read("soon"), read("-1"), read("")), (None, None, None));
    }
}
