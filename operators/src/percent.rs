//! What is escaped in a URL.

/// Turns `%40` into `@`.
///
/// # Errors
/// Say what is wrong, without showing the text, which may be a password.
pub(crate) fn decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("a `%` is not followed by two hexadecimal digits; a percent sign is written %25")?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| "what is escaped in it is no UTF-8")
}
