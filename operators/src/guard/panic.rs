//! Panics of users' closures, caught with their text and place, so that the change that caused one can be parked.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a closure; a panic becomes an error that says what was said and where.
///
/// State that the closure left half changed must not be used afterwards: that is the caller's to see to.
pub fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    install_hook();
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(outer);
    result.map_err(|payload| {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a text".to_owned());
        let place = PLACE.take();
        if place.is_empty() { format!("panicked: {text}") } else { format!("panicked at {place}: {text}") }
    })
}

/// A future whose panics become errors.
#[derive(Debug)]
pub struct Guarded<F>(pub F);

impl<F: Future + Unpin> Future for Guarded<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match guarded(|| Pin::new(&mut self.0).poll(context)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

/// The place of a panic is known to the hook alone. Guarded panics are remembered and not printed; others print as before.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if GUARDED.get() {
                PLACE.set(info.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default());
            } else {
                previous(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_text_and_place() {
        let error = guarded(|| -> u32 { panic!("no {}", "amount") }).unwrap_err();
        assert!(error.starts_with("panicked at ") && error.contains("panic.rs:") && error.ends_with(": no amount"), "{error}");
        assert_eq!(guarded(|| 3), Ok(3));
    }
}
