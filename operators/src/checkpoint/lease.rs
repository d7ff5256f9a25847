//! Whether a run may still act on what cannot be fenced: webhooks, mail, anything that asks no generation.

/// Whether a run may still act. Cheap to clone and to ask.
#[derive(Clone, Debug, Default)]
pub struct Lease(());

impl Lease {
    /// A lease that never ends: of a store whose lock dies with its process.
    pub fn forever() -> Self {
        Lease(())
    }
}
